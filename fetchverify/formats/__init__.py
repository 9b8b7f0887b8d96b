"""Readers of what lies in a model folder: bounded in memory and time, over hostile bytes, executing nothing.

Each takes a `Source` (a file, a range of a remote file, bytes) and returns values of `core.diagnosis.facts`, or raises
`Malformed`; no other exception leaves this room. Opening files is left to `store`, judging to `core.diagnosis`.

source       reads of a range, and the one error
sniff        what the first bytes are, whatever the name says
safetensors  headers and their rules
ziptable     what a zip archive holds
pickles      what a pickle would build and import
torchfile    files of `torch.save`
gguf         headers of GGUF
dcp          `.metadata` of a torch distributed checkpoint
config       JSON that cannot take the memory, and the plain part of YAML
"""
