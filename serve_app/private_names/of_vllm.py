"""The private names of vLLM, of its Triton kernels, and of what it takes from torch."""

from __future__ import annotations

from functools import partial

from serve_app.private_names.name import PrivateName

ADAPTER = "serve_app.vllm_adapter"
WORKER = "serve_app.vllm_worker"
TOKEN_ENGINE = f"{ADAPTER}.token_engine"
REMOTE_ENGINE = f"{ADAPTER}.remote_engine"
REMOTE_SEQUENCE = f"{ADAPTER}.remote_sequence"
SAMPLING = f"{ADAPTER}.sampling_params"
WARMING = f"{ADAPTER}.warming"
ARGUMENTS = f"{ADAPTER}.arguments"
CANARY = f"{ADAPTER}.canary"
COMPILING = f"{ADAPTER}.compiling"
WIRE = f"{ADAPTER}.wire"
PLUGIN = f"{WORKER}.plugin"
PHASES = f"{WORKER}.phases"
GRAPHS = f"{WORKER}.graph_report"
THREADS = f"{WORKER}.compile_threads"
REPAIRS = f"{WORKER}.cpu_repairs"
KERNELS = f"{WORKER}.routing_kernels"
RESUMPTION = f"{WORKER}.resumption"
TRAFFIC = "benchmarks/capacity/traffic.py"

# --- the engine, as a replica drives it ----------------------------------------------------------------

_ENGINE = partial(PrivateName, used_in=(TOKEN_ENGINE,), test="tests/unit/vllm_adapter/test_token_engine.py")
_NO_TOKENS = "no token of the engine reaches an ingress"
_NO_ENGINE = "no engine can be started"
_NO_REQUEST = "no request can be given to the engine"
_ASYNC_LLM = "vllm.v1.engine.async_llm:AsyncLLM"
_CLIENT = "vllm.v1.engine.core_client"
_OUTPUTS = "vllm.v1.engine.output_processor"

_OF_THE_ENGINE = (
    _ENGINE(path=_ASYNC_LLM, used_in=(TOKEN_ENGINE, WARMING, CANARY, TRAFFIC), without_it=_NO_ENGINE),
    _ENGINE(
        path=f"{_ASYNC_LLM}.from_engine_args",
        parameters=("engine_args", "usage_context"),
        without_it=_NO_ENGINE,
    ),
    _ENGINE(
        path=f"{_ASYNC_LLM}.generate",
        used_in=(TOKEN_ENGINE, WARMING, CANARY),
        parameters=("prompt", "sampling_params", "request_id", "priority", "session_id", "reasoning_ended"),
        without_it=_NO_REQUEST,
    ),
    _ENGINE(path=f"{_ASYNC_LLM}.engine_core", without_it=_NO_TOKENS),
    _ENGINE(
        path=f"{_CLIENT}:AsyncMPClient.get_output_async",
        looked_up_by=(f"{_ASYNC_LLM}._run_output_handler",),
        without_it=_NO_TOKENS,
    ),
    _ENGINE(path="vllm.v1.engine:EngineCoreOutputs.outputs", without_it=_NO_TOKENS),
    _ENGINE(path=f"{_ASYNC_LLM}.output_processor", without_it=_NO_TOKENS),
    _ENGINE(path=f"{_OUTPUTS}:OutputProcessor.request_states", without_it=_NO_TOKENS),
    _ENGINE(path=f"{_OUTPUTS}:RequestState.external_req_id", without_it=_NO_TOKENS),
    _ENGINE(
        path=f"{_OUTPUTS}:RequestState.queue",
        without_it="a request whose ingress does not read goes on for ever",
    ),
    _ENGINE(
        path=f"{_OUTPUTS}:RequestOutputCollector.put",
        parameters=("output",),
        without_it="a request whose ingress does not read goes on for ever",
    ),
    _ENGINE(
        path=f"{_OUTPUTS}:OutputProcessor.get_num_unfinished_requests",
        without_it="nobody can ask how many requests an engine has",
    ),
    _ENGINE(
        path=f"{_CLIENT}:AsyncMPClient.resources", without_it="an engine that hangs keeps its GPU for ever"
    ),
    _ENGINE(
        path=f"{_CLIENT}:BackgroundResources.engine_manager",
        without_it="an engine that hangs keeps its GPU for ever",
    ),
    _ENGINE(
        path="vllm.v1.engine.utils:CoreEngineProcManager.processes",
        without_it="an engine that hangs keeps its GPU for ever",
    ),
    _ENGINE(
        path=f"{_ASYNC_LLM}.collective_rpc",
        parameters=("method",),
        without_it="a start cannot check that decode batches have CUDA graphs",
    ),
    _ENGINE(
        path=f"{_ASYNC_LLM}.reset_prefix_cache",
        used_in=(WARMING,),
        test="tests/unit/vllm_adapter/test_warming.py",
        without_it="the prefix cache begins full of the warm-up",
    ),
    _ENGINE(path=f"{_ASYNC_LLM}.check_health", without_it="an engine that has died is not replaced"),
    _ENGINE(
        path=f"{_ASYNC_LLM}.is_sleeping",
        without_it="an engine that compiles a grammar is taken for one that hangs",
    ),
    _ENGINE(
        path="vllm.v1.engine:FinishReason.ERROR",
        without_it="a grammar that cannot be compiled is an internal error (500) instead of a 400",
    ),
    _ENGINE(path=f"{_ASYNC_LLM}.shutdown", without_it="a replica that has drained leaves its engine running"),
    _ENGINE(
        path="vllm.v1.engine.exceptions:EngineDeadError",
        used_in=(ADAPTER,),
        without_it="a replica whose engine has died fails request after request",
    ),
    _ENGINE(
        path="vllm.v1.engine.exceptions:EngineGenerateError",
        without_it="errors of this service come back as failures of the engine",
    ),
    _ENGINE(
        path="vllm.config:SpeculativeConfig",
        used_in=(ARGUMENTS,),
        test="tests/unit/vllm_adapter/test_arguments.py",
        without_it="overrides of the speculator's settings are not checked",
    ),
    _ENGINE(path="vllm.usage.usage_lib:UsageContext.OPENAI_API_SERVER", without_it=_NO_ENGINE),
    _ENGINE(
        path="vllm.inputs.engine:tokens_input",
        used_in=(TOKEN_ENGINE, WARMING, CANARY, TRAFFIC),
        parameters=("prompt_token_ids", "cache_salt"),
        without_it=_NO_REQUEST,
    ),
    _ENGINE(
        path="vllm.sampling_params:RequestOutputKind.FINAL_ONLY",
        used_in=(TOKEN_ENGINE, WARMING, CANARY, TRAFFIC),
        without_it="each step of each request wakes a task of the replica",
    ),
    _ENGINE(
        path="vllm.sampling_params:RequestOutputKind.DELTA",
        used_in=(TRAFFIC,),
        test="tests/unit/benchmarks/test_capacity.py",
        is_vital=False,
        without_it="`python -m benchmarks.capacity.gpu` cannot be run; the service is not affected",
    ),
    _ENGINE(
        path="vllm.plugins:load_general_plugins",
        used_in=(TOKEN_ENGINE, "pyproject.toml"),
        looked_up_by=(
            "vllm.v1.engine.core:EngineCore.__init__",
            "vllm.v1.worker.worker_base:WorkerWrapperBase.init_worker",
        ),
        test="tests/unit/vllm_worker/test_plugin.py",
        without_it="nothing of serve_app.vllm_worker happens in the engine's processes",
    ),
)

# --- what travels to an ingress, and what an ingress takes from vLLM -----------------------------------

_INGRESS = partial(
    PrivateName, used_in=(REMOTE_SEQUENCE,), test="tests/unit/vllm_adapter/test_remote_engine.py"
)
_WIRE = partial(PrivateName, used_in=(WIRE,), test="tests/unit/vllm_adapter/test_wire.py")
_NO_FRAMES = "engine and ingress have no common encoding of tokens"

_OF_THE_INGRESS = (
    _WIRE(
        path="vllm.v1.engine:EngineCoreOutput",
        used_in=(TOKEN_ENGINE, REMOTE_SEQUENCE, WIRE),
        parameters=(
            "request_id",
            "new_token_ids",
            "new_logprobs",
            "new_prompt_logprobs_tensors",
            "pooling_output",
            "finish_reason",
            "stop_reason",
            "events",
            "kv_transfer_params",
            "ec_transfer_params",
            "trace_headers",
            "prefill_stats",
            "routed_experts",
            "num_nans_in_logits",
            "mm_cache_miss_hashes",
            "new_sampling_mask",
            "spec_decode_metrics",
            "prompt_token_id_logprobs",
        ),
        without_it=_NO_FRAMES,
    ),
    _WIRE(path="vllm.v1.serial_utils:MsgpackEncoder.encode", without_it=_NO_FRAMES),
    _WIRE(path="vllm.v1.serial_utils:MsgpackDecoder.decode", without_it=_NO_FRAMES),
    *(
        _INGRESS(path=f"vllm.v1.engine:FinishReason.{name}", without_it="the end of an answer is an error")
        for name in ("STOP", "LENGTH", "REPETITION")
    ),
    *(
        _INGRESS(path=f"vllm.v1.outputs:LogprobsLists.{name}", without_it="answers have no log probabilities")
        for name in ("logprob_token_ids", "logprobs", "sampled_token_ranks")
    ),
    _INGRESS(path="vllm.v1.outputs:LogprobsTensors.tolists", without_it="prompts have no log probabilities"),
    _INGRESS(
        path="vllm.v1.metrics.stats:PrefillStats.num_cached_tokens",
        without_it="usage does not say how much of a prompt was cached",
    ),
    _INGRESS(
        path="vllm.exceptions:VLLMClientError",
        used_in=(ADAPTER, REMOTE_ENGINE, SAMPLING, WARMING),
        without_it="a request that vLLM refuses is an internal error (500) instead of a 400",
    ),
    _INGRESS(
        path="vllm.exceptions:VLLMValidationError.parameter",
        used_in=(SAMPLING,),
        without_it="errors name the wrong field less often",
        is_vital=False,
    ),
    _INGRESS(
        path="vllm.sampling_params:RepetitionDetectionParams",
        used_in=(SAMPLING,),
        parameters=("max_pattern_size", "min_count"),
        without_it="requests cannot ask for repetition_detection",
    ),
    _INGRESS(
        path="vllm.sampling_params:StructuredOutputsParams",
        used_in=(SAMPLING, WARMING, TRAFFIC),
        parameters=("structural_tag",),
        without_it="no answer can be held to a grammar",
    ),
    PrivateName(
        path="vllm.utils.gc_utils:freeze_gc_heap",
        used_in=(ADAPTER,),
        test="tests/unit/test_engine.py",
        without_it="collections of garbage hold up all streams",
    ),
)

# --- what compiled code depends on ---------------------------------------------------------------------

_CACHE = partial(PrivateName, used_in=(COMPILING,), test="tests/unit/vllm_adapter/test_compiling.py")
_NO_KEY = "the cache of compiled code has no key"

_OF_THE_CACHE = (
    _CACHE(path="vllm.envs:compile_factors", without_it=_NO_KEY),
    _CACHE(path="vllm.config.utils:hash_factors", without_it=_NO_KEY),
    _CACHE(path="vllm.platforms:current_platform.get_device_name", without_it=_NO_KEY),
    _CACHE(path="vllm.platforms:current_platform.get_device_capability", without_it=_NO_KEY),
    _CACHE(
        path="vllm.platforms:current_platform.is_cuda",
        used_in=(COMPILING, PLUGIN),
        without_it="it is not known what the engine runs on",
    ),
    _CACHE(
        path="vllm.platforms:current_platform.is_cpu",
        used_in=(PLUGIN,),
        test="tests/unit/vllm_worker/test_plugin.py",
        without_it="it is not known what the engine runs on",
    ),
    *(
        _CACHE(path=f"vllm.third_party.pynvml:{name}", without_it="the key does not name the driver")
        for name in ("nvmlInit", "nvmlSystemGetDriverVersion", "nvmlShutdown")
    ),
)

# --- inside the processes that vLLM starts -------------------------------------------------------------

_PHASES = partial(
    PrivateName,
    used_in=(PHASES,),
    test="tests/unit/vllm_worker/test_phases.py",
    is_vital=False,
    is_costly=True,
    without_it="`stage report` does not say what a start spends inside vLLM",
)
_GRAPHS = partial(
    PrivateName,
    used_in=(GRAPHS,),
    test="tests/unit/vllm_worker/test_graph_report.py",
    is_costly=True,
    without_it="a start cannot check that decode batches have CUDA graphs",
)
_THREADS = partial(
    PrivateName,
    used_in=(THREADS,),
    test="tests/unit/vllm_worker/test_compile_threads.py",
    without_it="one grammar that takes minutes to compile holds up all others",
)
_MANAGER = "vllm.v1.structured_output:StructuredOutputManager"
_REPAIRS = partial(PrivateName, used_in=(REPAIRS,), test="tests/unit/vllm_worker/test_cpu_repairs.py")
_KERNELS = partial(
    PrivateName,
    used_in=(KERNELS,),
    test="tests/gpu/test_routing_kernels.py",
    package="triton_kernels",
    is_vital=False,
    without_it="prompts of new lengths wait for kernels to be compiled",
)
_RESUMPTION = partial(
    PrivateName,
    used_in=(RESUMPTION,),
    test="tests/engine/test_resumption.py",
    without_it="an answer whose engine has died cannot go on in another",
)
_REQUEST = "vllm.v1.request:Request"
_STRUCTURED = "vllm.v1.structured_output:StructuredOutputManager"
_V1_STATE = "vllm.v1.worker.gpu_input_batch:CachedRequestState"
_V1_RUNNER = "vllm.v1.worker.gpu_model_runner:GPUModelRunner"
_V2_RUNNER = "vllm.v1.worker.gpu.model_runner:GPUModelRunner"
_WORKER = "vllm.v1.worker.gpu_worker:Worker"

_OF_THE_WORKER = (
    _PHASES(
        path="vllm.v1.worker.worker_base:WorkerWrapperBase.init_device",
        is_costly=False,
        looked_up_by=(
            "vllm.v1.executor.uniproc_executor:UniProcExecutor._init_executor",
            "vllm.v1.executor.multiproc_executor:WorkerProc.__init__",
        ),
    ),
    _PHASES(path="vllm.v1.worker.worker_base:WorkerWrapperBase.worker"),
    _PHASES(path=f"{_WORKER}.rank"),
    _PHASES(path=f"{_WORKER}.model_runner", used_in=(PHASES, GRAPHS)),
    _PHASES(path=f"{_WORKER}.vllm_config", used_in=(PHASES, GRAPHS)),
    _PHASES(path="vllm.config:CompilationConfig.compilation_time"),
    _PHASES(path=f"{_WORKER}.load_model"),
    _PHASES(path=f"{_WORKER}.determine_available_memory"),
    _PHASES(path=f"{_WORKER}.compile_or_warm_up_model"),
    _PHASES(path=f"{_V1_RUNNER}.capture_model", looked_up_by=(f"{_WORKER}.compile_or_warm_up_model",)),
    _PHASES(path=f"{_V2_RUNNER}.capture_model", looked_up_by=(f"{_WORKER}.compile_or_warm_up_model",)),
    _GRAPHS(
        path="vllm.config:ParallelConfig.worker_extension_cls",
        looked_up_by=("vllm.v1.worker.worker_base:WorkerWrapperBase.init_worker",),
        used_in=(TOKEN_ENGINE,),
    ),
    _GRAPHS(path="vllm.config:VllmConfig.compilation_config", used_in=(PHASES, GRAPHS)),
    _GRAPHS(path="vllm.config:VllmConfig.scheduler_config"),
    _GRAPHS(path="vllm.config:SchedulerConfig.max_num_seqs"),
    _GRAPHS(path="vllm.config:CompilationConfig.cudagraph_mode"),
    _GRAPHS(path="vllm.config:CompilationConfig.cudagraph_capture_sizes"),
    _GRAPHS(path=f"{_V2_RUNNER}.cudagraph_manager"),
    _GRAPHS(path=f"{_V2_RUNNER}.speculator"),
    _GRAPHS(
        path="vllm.v1.worker.gpu.spec_decode.target_dependent_ar.speculator:TargetDependentARSpeculator"
        ".decode_cudagraph_manager",
    ),
    _GRAPHS(path="vllm.v1.worker.gpu.cudagraph_utils:CudaGraphManager.decode_query_len"),
    _GRAPHS(
        path="vllm.v1.worker.gpu.cudagraph_utils:CudaGraphManager.dispatch",
        parameters=("num_reqs", "num_tokens", "uniform_token_count", "num_active_loras", "max_query_len"),
    ),
    _GRAPHS(path="vllm.v1.worker.gpu.cudagraph_utils:BatchExecutionDescriptor.cg_mode"),
    _GRAPHS(path=f"{_V1_RUNNER}.cudagraph_dispatcher"),
    _GRAPHS(path="vllm.v1.cudagraph_dispatcher:CudagraphDispatcher.uniform_decode_query_len"),
    _GRAPHS(
        path="vllm.v1.cudagraph_dispatcher:CudagraphDispatcher.dispatch",
        parameters=("num_tokens", "uniform_decode"),
    ),
    PrivateName(
        path="vllm.utils.import_utils:has_triton_kernels",
        used_in=(PLUGIN,),
        test="tests/unit/vllm_worker/test_plugin.py",
        without_it="prompts of new lengths wait for kernels to be compiled",
    ),
    _THREADS(path=_MANAGER),
    _THREADS(
        path=f"{_MANAGER}.grammar_init",
        parameters=("request",),
        looked_up_by=("vllm.v1.engine.core:EngineCore.preprocess_add_request",),
    ),
    _THREADS(path=f"{_MANAGER}.executor", looked_up_by=(f"{_MANAGER}.grammar_init",)),
    _THREADS(
        path="concurrent.futures:Future.done",
        looked_up_by=("vllm.v1.structured_output.request:StructuredOutputRequest._check_grammar_completion",),
        without_it="a request waits for ever for a grammar that takes for ever to compile",
    ),
    _REPAIRS(
        path="vllm.v1.sample.rejection_sampler:expand_batch_to_tokens",
        parameters=("x", "cu_num_tokens", "num_tokens", "replace_from", "replace_to"),
        looked_up_by=("vllm.v1.sample.rejection_sampler:apply_sampling_constraints",),
        without_it="sampled answers with a speculator are noise on CPUs",
    ),
    _REPAIRS(
        path="vllm.v1.sample.ops.topk_topp_sampler:apply_top_k_only",
        parameters=("logits", "k"),
        looked_up_by=("vllm.v1.sample.ops.topk_topp_sampler:apply_top_k_top_p_pytorch",),
        without_it="a request with top_k and without top_p ends an engine with a speculator on a CPU",
    ),
    _REPAIRS(
        path="torch:Generator",
        looked_up_by=(f"{_V1_RUNNER}._update_states",),
        without_it="a seeded request with a long prompt ends an engine on a CPU",
    ),
    _RESUMPTION(
        path=f"{_REQUEST}.from_engine_core_request",
        parameters=("request", "block_hasher"),
        looked_up_by=("vllm.v1.engine.core:EngineCore.preprocess_add_request",),
    ),
    _RESUMPTION(path=f"{_REQUEST}.append_output_token_ids", parameters=("token_ids",)),
    _RESUMPTION(path=f"{_REQUEST}.output_token_ids"),
    _RESUMPTION(
        path=f"{_REQUEST}.prefill_stats",
        without_it="an answer that goes on where more than its prompt is cached ends the engine",
    ),
    _RESUMPTION(
        path=f"{_STRUCTURED}._create_grammar",
        parameters=("request",),
        looked_up_by=(f"{_STRUCTURED}.grammar_init",),
        without_it="an answer held to a grammar cannot go on in another engine",
    ),
    _RESUMPTION(
        path="vllm.v1.structured_output.backend_types:StructuredOutputGrammar.accept_tokens",
        parameters=("request_id", "tokens"),
        without_it="an answer held to a grammar cannot go on in another engine",
    ),
    _RESUMPTION(path=f"{_V1_STATE}.__post_init__", looked_up_by=(f"{_V1_STATE}.__init__",)),
    _RESUMPTION(path=f"{_V1_STATE}.output_token_ids"),
    _RESUMPTION(path=f"{_V1_STATE}.sampling_params"),
    _KERNELS(path="triton_kernels.topk:_topk_forward", looked_up_by=("triton_kernels.topk:topk_forward",)),
    _KERNELS(
        path="triton_kernels.reduction_details.reduce_bitmatrix:_sum_bitmatrix_rows",
        looked_up_by=("triton_kernels.reduction_details.reduce_bitmatrix:sum_bitmatrix_rows",),
    ),
)

NAMES: tuple[PrivateName, ...] = (*_OF_THE_ENGINE, *_OF_THE_INGRESS, *_OF_THE_CACHE, *_OF_THE_WORKER)
