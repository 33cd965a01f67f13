"""Networks of the teachers, the text encoders and the student.

In: tensors and strings. Out: tensors and strings; no file formats of the pipeline.
"""
