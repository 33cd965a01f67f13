import os

# Before torch is imported, here and in processes of tests: where several share the cores, threads
# that spin between small operations take more time than the operations.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
