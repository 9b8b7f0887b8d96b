"""What is wrong with a model folder, decided over values that others read; no file is touched here.

facts       what was read: contents, tensors, headers, names
findings    Finding and Diagnosis, as reports show them
codes       every code with its severity and the text of `--explain`
"""
