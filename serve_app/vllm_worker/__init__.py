"""What this package does inside the processes that vLLM starts: the engine core and its workers.

plugin.py           vLLM calls it in each of them
grammars.py         how an engine core makes masks of grammars
compile_threads.py  in which threads it compiles them, and for how long
resumption.py       how an engine goes on with an answer that another one has begun
phases.py           seconds of a start from inside a worker
cpu_repairs.py      repairs of vLLM on CPUs
routing_kernels.py  kernels that are compiled once and not for each length of a step
graph_report.py     which decode batches run in full CUDA graphs; the replica checks what it says
"""
