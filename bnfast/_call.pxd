from . cimport bnfast_api


cdef bnfast_api the_table
