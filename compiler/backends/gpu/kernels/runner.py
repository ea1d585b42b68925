# ---- the runner ------------------------------------------------------------------------------------------------------


class Model:
    """The model on one device, its weights read from a mapped file. Call it with the inputs by name (arrays or tensors,
    batch x tokens) for the outputs by name, fp32 tensors on the device; any batch and length up to the compiled ones."""

    def __init__(self, weights=None, device=None):
        path = Path(weights or Path(__file__).with_name("weights.bin"))
        self.device = torch.device(device or ("cpu" if INTERPRETED.value else "cuda"))
        image = np.memmap(path, np.uint8, "c")
        if image.size != WEIGHTS_BYTES or bytes(image[: len(WEIGHTS_HEADER)]) != WEIGHTS_HEADER:
            raise ValueError(f"{path} does not hold the weights of this model")
        self.image = torch.from_numpy(image).to(self.device)
        self.halves, self.by_marks = {}, ""
        self.shape = None
        self.profile = None

    def at(self, offset, count, dtype):
        """A stored array, flat."""
        return self.image[offset : offset + count * dtype.itemsize].view(dtype)

    def token_rows(self, place, features):
        return self.token_memory[place : place + features]

    def sample_rows(self, place, features):
        return self.sample_memory[place : place + features]

    def code_rows(self, place, features):
        """Codes [features, columns] and their scales [columns], which stand before them."""
        rows = self.code_memory[place : place + 4 + features]
        return rows[4:], rows[:4].reshape(-1).view(torch.float32)

    def fit(self, batch, tokens):
        """Activation memories for a shape, made once: columns are all tokens, padded to whole vectors."""
        if not (1 <= batch <= MAX_BATCH and 1 <= tokens <= MAX_TOKENS):
            raise ValueError(f"{batch} x {tokens} does not fit: at most {MAX_BATCH} samples of {MAX_TOKENS} tokens")
        if self.shape == (batch, tokens):
            return
        self.shape = (batch, tokens)
        self.batch, self.tokens, self.count = batch, tokens, batch * tokens
        self.columns, self.samples = -(-self.count // 16) * 16, -(-batch // 16) * 16

        def make(rows, columns, dtype):
            return torch.zeros((rows, columns), dtype=dtype, device=self.device)

        self.token_memory = make(TOKEN_ROWS, self.columns, ACTIVATIONS)
        self.sample_memory = make(SAMPLE_ROWS, self.samples, ACTIVATIONS)
        self.code_memory = make(CODE_ROWS, self.columns, torch.int8)
        self.ids = {name: make(1, self.count, torch.int32)[0] for name in IDS}
        self.masks = {name: make(1, self.count, torch.int8)[0] for name in MASKS}
        self.graph = None

    def read(self, inputs):
        """Check the inputs and put them into the tensors that kernels read."""
        missing = [name for name in INPUTS if name not in inputs]
        if missing:
            raise ValueError(f"input {missing[0]!r} is missing")
        given = {
            name: torch.as_tensor(np.ascontiguousarray(v) if isinstance(v, np.ndarray) else v) for name, v in inputs.items()
        }
        shapes = {tuple(given[name].shape) for name in INPUTS}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(f"inputs are batch x tokens, all of one shape, not {sorted(shapes)}")
        self.fit(*next(iter(shapes)))
        for name, rows in IDS.items():
            ids = given[name]
            if ids.numel() and not (int(ids.min()) >= 0 and int(ids.max()) < rows):
                raise ValueError(f"input {name!r} holds an id outside its table of {rows} rows")
            self.ids[name].copy_(ids.reshape(-1))
        for name in MASKS:
            self.masks[name].copy_((given[name] != 0).reshape(-1))

    def stored_ids(self, offset, rows):
        """Ids that are part of the model, and after how many tokens they repeat."""
        ids = self.at(offset, rows * MAX_TOKENS, torch.int32).view(rows, MAX_TOKENS)[: self.batch, : self.tokens]
        return ids.reshape(-1), self.tokens if rows == 1 else self.count

    def halved(self, values, marks, tiles, rows, ins, outs):
        """A 2:4 weight [outs, ins] as torch's semi-structured tensor (cuSPARSELt), made once and tried; None where torch
        cannot, and `by_marks` then says why."""
        key = values.data_ptr()
        if self.device.type != "cuda":
            self.by_marks = "not on a GPU"
        if key not in self.halves and not self.by_marks:
            try:
                from torch.sparse import to_sparse_semi_structured

                matrix = to_sparse_semi_structured(unmarked(values, marks, tiles, rows, ins)[:outs])
                torch.mm(matrix, torch.zeros((ins, self.columns), dtype=values.dtype, device=self.device))
                self.halves[key] = matrix
            except (ImportError, NotImplementedError, RuntimeError) as error:
                self.by_marks = str(error).partition("\n")[0] or type(error).__name__
        return None if self.by_marks else self.halves[key]

    def launch(self):
        for number, step in enumerate(STEPS):
            if self.profile is None:
                step(self)
            else:
                self.profile(number, lambda step=step: step(self))

    def __call__(self, inputs):
        with torch.inference_mode():
            self.read(inputs)
            self.launch()
            return {name: self.result(*place) for name, place in OUTPUTS.items()}

    def captured(self, inputs):
        """As a call, by a CUDA graph of all launches, captured when a shape comes for the first time."""
        with torch.inference_mode():
            self.read(inputs)
            if self.graph is None:
                self.launch()
                torch.cuda.synchronize(self.device)
                self.graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(self.graph):
                    self.launch()
            self.graph.replay()
            return {name: self.result(*place) for name, place in OUTPUTS.items()}

    def result(self, per_token, place, features):
        """An output as batch (x tokens) x features."""
        if per_token:
            rows = self.token_rows(place, features)[:, : self.count].t()
            return rows.float().reshape(self.batch, self.tokens, features)
        return self.sample_rows(place, features)[:, : self.batch].t().float().contiguous()


def power(count):
    return max(16, triton.next_power_of_2(count))


def run_linear(
    m,
    x,
    memory,
    weights,
    tiles,
    bias,
    layout="dense",
    index=None,
    begins=None,
    row_scales=None,
    residual=None,
    activation="none",
    rows=64,
    tokens=64,
    inputs=64,
    stages=4,
):
    codes, scales = x if isinstance(x, tuple) else (x, x)
    columns = codes.shape[1]
    grid = (tiles.numel() // 4, triton.cdiv(columns, tokens))
    linear[grid](
        codes,
        weights,
        tiles if index is None else index,
        tiles if begins is None else begins,
        tiles,
        bias,
        bias if row_scales is None else row_scales,
        scales,
        memory if residual is None else residual,
        memory,
        codes.shape[0],
        columns,
        ROWS=rows,
        TOKENS=tokens,
        INPUTS=inputs,
        LAYOUT=layout,
        IN_BYTES=row_scales is not None,
        RESIDUAL=residual is not None,
        ACTIVATION=activation,
        num_warps=8 if rows * tokens >= 128 * 128 else 4,
        num_stages=stages,
    )


def run_sparse(m, x, out, memory, weights, tiles, bias, index, begins, rows, residual=None, activation="none", **how):
    """A 2:4 weight on the sparse tensor cores, where torch takes it; elsewhere by its marks."""
    matrix = m.halved(weights, index, tiles, rows, x.shape[0], out.shape[0])
    if matrix is None:
        run_linear(m, x, memory, weights, tiles, bias, "marks", index, begins, None, residual, activation, rows, **how)
    else:
        run_pointwise(m, torch.mm(matrix, x).contiguous(), out, residual, "plus", activation, bias)


def unmarked(values, marks, tiles, rows, ins):
    """The dense matrix [tiles * rows, ins] of marked values."""
    bits = (marks.view(-1, rows, 1) >> torch.arange(32, device=marks.device, dtype=torch.int32)) & 1
    dense = torch.zeros(bits.shape, dtype=values.dtype, device=values.device)
    dense[bits != 0] = values[: int((bits != 0).sum())]
    count = tiles.numel() // 4
    return dense.view(count, -1, rows, 32).transpose(1, 2).reshape(count * rows, -1)[:, :ins].contiguous()


def run_pointwise(m, x, out, other=None, how="plus", activation="none", bias=None):
    features, columns = x.shape
    tokens = min(512, power(columns))
    pointwise[(triton.cdiv(features, 16), triton.cdiv(columns, tokens))](
        x,
        x if other is None else other,
        x if bias is None else bias,
        out,
        columns,
        features,
        OTHER="none" if other is None else how,
        BIAS=bias is not None,
        ACTIVATION=activation,
        ROWS=16,
        TOKENS=tokens,
    )


def run_quantize(m, x, codes):
    features, columns = x.shape
    span = power(features)
    tokens = 16
    quantize[(triton.cdiv(columns, tokens),)](
        x, codes[0], codes[1], columns, FEATURES=features, SPAN=span, TOKENS=tokens, num_warps=8
    )


def run_attention(m, q, k, v, out, mask, heads, groups, scale, causal):
    size, columns = q.shape[0] // heads, q.shape[1]
    block = min(64, power(m.tokens))
    attention[(triton.cdiv(m.tokens, block), heads, m.batch)](
        q,
        k,
        v,
        q if mask is None else mask,
        out,
        scale,
        m.tokens,
        columns,
        SHARED=heads // groups,
        SIZE=size,
        SPAN=power(size),
        QUERIES=block,
        KEYS=block,
        MASKED=mask is not None,
        CAUSAL=causal,
        num_warps=4,
        num_stages=2,
    )


def run_embedding(m, out, lookups, norm=None):
    features, columns = out.shape
    parts = [*lookups, *[lookups[0]] * (3 - len(lookups))]
    gamma, beta, eps = norm or (out, out, 0.0)
    embedding[(triton.cdiv(columns, 16),)](
        out,
        *(part for (ids, period), table in parts for part in (ids, table, period)),
        gamma,
        beta,
        eps,
        columns,
        m.count,
        TABLES=len(lookups),
        FEATURES=features,
        SPAN=power(features),
        TOKENS=16,
        NORM=norm is not None,
        num_warps=8,
    )


def run_layer_norm(m, x, gamma, beta, out, eps):
    features, columns = x.shape
    layer_norm[(triton.cdiv(columns, 16),)](
        x, gamma, beta, out, eps, columns, FEATURES=features, SPAN=power(features), TOKENS=16, num_warps=8
    )


def run_rms_norm(m, x, gamma, out, eps):
    features, columns = gamma.numel(), x.shape[1]
    rms_norm[(triton.cdiv(columns, 16), x.shape[0] // features)](
        x, gamma, out, eps, columns, FEATURES=features, SPAN=power(features), TOKENS=16, num_warps=4
    )


def run_rotary(m, x, table, out, size, turned, interleaved):
    columns = x.shape[1]
    rotary[(triton.cdiv(columns, 32), x.shape[0] // size)](
        x, table, out, m.tokens, columns, SIZE=size, TURNED=turned, INTERLEAVED=interleaved, SPAN=power(size), TOKENS=32
    )


def run_pool(m, x, out, mask=None, minimum=0.0, token=0):
    features, columns = x.shape
    pool[(triton.cdiv(features, 32), m.batch)](
        x,
        out if mask is None else mask,
        out,
        m.tokens,
        columns,
        m.samples,
        features,
        minimum,
        token,
        MEAN=mask is not None,
        ROWS=32,
        TOKENS=64,
    )


