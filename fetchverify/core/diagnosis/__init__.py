"""What is wrong with a model folder, decided over values that others read; no file is touched here.

facts          what was read: contents, tensors, headers, names
findings       Finding and Diagnosis, as reports show them
codes          every code with its severity and the text of `--explain`
filerules      is a file what its name promises
tensorrules    names and shapes against the config, of any architecture
layouts        which layout a folder has
folderrules    what must lie in it and agree
trainrules     what training leaves
trainconfig    what a training config will leave
uses           can the folder serve a use
securityrules  what would run code
samples        what blocks of the numbers show
wholes         a tree of folders, judged
"""
