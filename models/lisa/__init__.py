"""LISA and LISA++: a CLIP tower and a Llama that ask a SAM mask decoder through ``[SEG]``."""
