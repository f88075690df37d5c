"""PyTorch's half of benches/gpu.py: the work of a row of `gpu_bench`, timed by the card's own clock."""

import contextlib
import math
import statistics
import time


class Torch:
    """Times rows; on `cpu` by the host's clock, for a walk through."""

    def __init__(self, device, seconds, pause):
        import torch

        self.torch, self.device, self.seconds, self.pause = torch, device, seconds, pause
        torch.manual_seed(1)
        torch.set_float32_matmul_precision("high")
        # As large as the engine's: several times the L2 cache.
        self.flush = torch.zeros(64 << 20 if device == "cuda" else 64, device=device)
        # What the models of a part keep between rows.
        self.models = {}

    def card(self):
        return self.torch.cuda.get_device_name(0) if self.device == "cuda" else "emulation"

    def versions(self):
        torch = self.torch
        found = {"torch": torch.__version__, "cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        with contextlib.suppress(ImportError):
            import transformers

            found["transformers"] = transformers.__version__
        with contextlib.suppress(ImportError):
            import triton

            found["triton"] = triton.__version__
        return found

    def release(self):
        """Gives memory back, so that the engine's next turn has it."""
        import gc

        self.models.clear()
        if self.device == "cuda":
            self.torch.compiler.reset()
            gc.collect()
            self.torch.cuda.empty_cache()

    def measure(self, row, left):
        """Yields (name of the yardstick, {"seconds": …} or {"error": …}) for a row."""
        work = getattr(self, row["section"], None)
        if work is None or left <= 0:
            return
        for who, prepare in work(row):
            try:
                result = self.time(prepare())
            except Exception as error:  # a yardstick that cannot be had is no reason to stop
                result = {"error": f"{type(error).__name__}: {error}"}
            if row["section"] in ("step", "lora"):
                self.release()
            yield who, result

    def once(self, run):
        torch = self.torch
        if self.device == "cpu":
            start = time.perf_counter()
            run()
            return time.perf_counter() - start
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def time(self, run):
        """As the engine times itself: two to warm up, caches flushed before each, the median."""
        time.sleep(self.pause)
        self.once(run)
        estimate = self.once(run)
        if self.device == "cuda":
            self.torch.cuda.synchronize()
        times = []
        for _ in range(min(40, max(3, int(self.seconds / max(estimate, 1e-6)))) if self.device == "cuda" else 1):
            self.flush.zero_()
            times.append(self.once(run))
        return {"seconds": statistics.median(times), "fastest": min(times), "runs": len(times)}

    def normal(self, *shape, grad=False):
        values = self.torch.randn(*shape, device=self.device, dtype=self.torch.bfloat16)
        return values.requires_grad_(grad)

    # -----------------------------------------------------------------------------------------
    # Parts

    def copy(self, row):
        def prepare():
            source = self.torch.randn(row["with"]["values"], device=self.device)
            target = self.torch.empty_like(source)
            return lambda: target.copy_(source)

        yield "torch copy", prepare

    def gemm(self, row):
        of = row["with"]
        rows, outputs, inputs = of["rows"], of["outputs"], of["inputs"]

        def prepare():
            torch = self.torch
            if of["kind"] == "forward":
                x, w = self.normal(rows, inputs), self.normal(outputs, inputs)
                y = self.normal(rows, outputs)
                return lambda: torch.matmul(x, w.t(), out=y)
            dy = self.normal(rows, outputs)
            if of["kind"] == "dx":
                w, dx = self.normal(outputs, inputs), self.normal(rows, inputs)
                return lambda: torch.matmul(dy, w, out=dx)
            x, dw = self.normal(rows, inputs), self.normal(outputs, inputs)
            return lambda: torch.matmul(dy.t(), x, out=dw)

        yield "cuBLASLt", prepare

    def attention(self, row):
        """SDPA over documents of one length; unequal ones by FlashAttention's own packed form, where torch has it."""
        import torch.nn.functional as functional
        from torch.nn.attention import SDPBackend, sdpa_kernel

        of, torch = row["with"], self.torch
        ends = of["documents"]
        lengths = [b - a for a, b in zip(ends, ends[1:])]
        backward = of["pass"] == "backward"

        def dense(backend):
            def prepare():
                count, length = len(lengths), lengths[0]
                q = self.normal(count, of["queries"], length, of["size"], grad=backward)
                k, v = [self.normal(count, of["key_values"], length, of["size"], grad=backward) for _ in range(2)]

                def forward():
                    with sdpa_kernel(backend) if self.device == "cuda" else contextlib.nullcontext():
                        return functional.scaled_dot_product_attention(
                            q, k, v, is_causal=True, enable_gqa=of["queries"] != of["key_values"])

                if not backward:
                    return forward
                out = forward()
                dout = torch.randn_like(out)
                return lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)

            return prepare

        def packed():
            from torch.nn.attention.varlen import varlen_attn

            total = ends[-1]
            q = self.normal(total, of["queries"], of["size"], grad=backward)
            k, v = [self.normal(total, of["key_values"], of["size"], grad=backward) for _ in range(2)]
            starts = torch.tensor(ends, device=self.device, dtype=torch.int32)

            def forward():
                try:
                    return varlen_attn(q, k, v, starts, starts, max(lengths), max(lengths), is_causal=True)
                except TypeError:  # later versions name the mask by a window
                    return varlen_attn(q, k, v, starts, starts, max(lengths), max(lengths), window_size=(-1, 0))

            if not backward:
                return forward
            out = forward()
            dout = torch.randn_like(out)
            return lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)

        if len(set(lengths)) == 1:
            yield "SDPA flash", dense(SDPBackend.FLASH_ATTENTION)
            yield "SDPA cuDNN", dense(SDPBackend.CUDNN_ATTENTION)
        else:
            yield "torch varlen", packed

    def head(self, row):
        """Head and loss over chunks of rows, each recomputed in the backward pass."""
        import torch.nn.functional as functional
        from torch.utils.checkpoint import checkpoint

        of, torch = row["with"], self.torch
        backward = of["pass"] != "forward"

        def prepare():
            hidden = self.normal(of["rows"], of["hidden"], grad=backward)
            head = (self.normal(of["vocabulary"], of["hidden"]) / math.sqrt(of["hidden"])).detach().requires_grad_(backward)
            targets = torch.arange(of["rows"], device=self.device) * 7919 % of["vocabulary"]

            def chunk_loss(chunk, targets):
                return functional.cross_entropy((chunk @ head.t()).float(), targets, reduction="sum")

            def run():
                loss = 0.0
                for chunk, aims in zip(hidden.split(1024), targets.split(1024)):
                    loss = loss + (checkpoint(chunk_loss, chunk, aims, use_reentrant=False) if backward else chunk_loss(chunk, aims))
                if backward:
                    torch.autograd.grad(loss, (hidden, head))

            if backward:
                return run
            return torch.no_grad()(run)

        yield "torch, chunked", prepare

    def model(self, config, training):
        """transformers' model of this config with random weights, in bf16, with SDPA."""
        import transformers

        kind = {"qwen2": ("Qwen2Config", "Qwen2ForCausalLM"), "qwen3": ("Qwen3Config", "Qwen3ForCausalLM")}[config["model_type"]]
        fields = {key: value for key, value in config.items() if key not in ("model_type", "rope_theta")}
        rope = {"rope_theta": config["rope_theta"], "rope_type": "default"}
        try:
            settings = getattr(transformers, kind[0])(**fields, rope_parameters=rope, bos_token_id=None, eos_token_id=None)
        except TypeError:
            settings = getattr(transformers, kind[0])(**fields, rope_theta=config["rope_theta"], bos_token_id=None, eos_token_id=None)
        settings._attn_implementation = "sdpa"
        before = self.torch.get_default_dtype()
        self.torch.set_default_dtype(self.torch.bfloat16)
        try:
            with self.torch.device(self.device):
                model = getattr(transformers, kind[1])(settings)
        finally:
            self.torch.set_default_dtype(before)
        return model.train() if training else model.eval()

    def documents(self, of):
        """Ids [documents, length]: documents of one length need no packing, which is the kinder yardstick."""
        return self.torch.randint(0, of["config"]["vocab_size"], (of["documents"], of["length"]), device=self.device)

    def train(self, of, adapter, checkpointing=False):
        """A step: forward, backward, fused AdamW; the head and its loss in chunks."""
        import torch.nn.functional as functional
        from torch.utils.checkpoint import checkpoint

        torch = self.torch
        model = self.model(of["config"], training=True)
        adapter(model)
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6, fused=self.device == "cuda")
        body = torch.compile(model.model) if self.device == "cuda" else model.model
        ids = self.documents(of)

        def chunk_loss(chunk, targets):
            return functional.cross_entropy(model.lm_head(chunk).float(), targets, reduction="sum")

        def run():
            optimizer.zero_grad(set_to_none=True)
            hidden = body(input_ids=ids, use_cache=False).last_hidden_state.flatten(0, 1)
            loss = 0.0
            for chunk, aims in zip(hidden.split(2048), ids.flatten().split(2048)):
                loss = loss + checkpoint(chunk_loss, chunk, aims, use_reentrant=False)
            (loss / ids.numel()).backward()
            optimizer.step()

        return run

    def step(self, row):
        # With every layer's inside made again where the memory does not suffice otherwise: the faster one counts.
        yield "torch.compile", lambda: self.train(row["with"], lambda model: None)
        if row["with"]["config"]["hidden_size"] > 3000:
            yield "torch.compile, checkpointing", lambda: self.train(row["with"], lambda model: None, checkpointing=True)

    def lora(self, row):
        def attach(model):
            from peft import LoraConfig, inject_adapter_in_model

            names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            inject_adapter_in_model(LoraConfig(r=row["with"]["rank"], lora_alpha=32, target_modules=names), model)
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("lora_" in name)

        yield "torch + PEFT", lambda: self.train(row["with"], attach)

    def generate(self, row):
        """transformers' `generate`: the time of the new tokens alone, by the difference to a call for one token."""
        of, torch = row["with"], self.torch
        key = "generate"

        def prepare():
            if key not in self.models:
                self.models[key] = self.model(of["config"], training=False)
            model = self.models[key]
            ids = torch.randint(1, of["config"]["vocab_size"], (of["slots"], of["prompt"]), device=self.device)

            def answer(tokens):
                with torch.no_grad():
                    model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens,
                                   do_sample=False, pad_token_id=0)

            return lambda: answer(of["answer"])

        yield "transformers", prepare
