# Coding: how objects travel that are neither bytes nor text nor plain arrays.

@cython.final
cdef class Coding:
    """What was said of the objects that a segment carries: their codec, and whether and how they are pickled.

    Each handle that puts or takes has one; a look at the segment makes one where it decodes. Any kind of segment may carry objects.
    """

    cdef object codec           # of the user's; None where there is none, and for a look, which decodes what is no codec's
    cdef bint pickles           # may they be pickled?
    cdef bint keeps_types       # what exports a buffer is pickled, too, so that its type comes out
    cdef Dumper dumper          # None where nothing is put


cdef Coding coding_of_look(bint pickles):
    """For a look: without a codec."""
    cdef Coding coding = Coding.__new__(Coding)
    coding.pickles = pickles
    return coding


cdef Coding UNKNOWN_CODING = coding_of_look(False) # of a handle that was never opened
