"""A cell's step as a program: recorded from plain torch code, differentiated, put into stages, and run in the scan of the kernels."""
