"""LISA and LISA++: a CLIP tower, a Llama, and a SAM mask decoder prompted by ``[SEG]``.

In: a checkpoint folder, an image, questions. Out: answers with masks and [SEG] embeddings.
"""
