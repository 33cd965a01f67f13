"""LISA and LISA++: a CLIP tower and a Llama that ask a SAM mask decoder through ``[SEG]``.

In: a checkpoint folder, an image, questions. Out: answers with masks and [SEG] embeddings.
"""
