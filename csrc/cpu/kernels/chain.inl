// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Consecutive convolutions, piece by piece of the picture, so that what passes between them stays in L2.
//
// A task is a strip of the last layer's pixels, walked down a few rows at a time. Every layer but the last leaves
// its rows in a window; those that the next step reads again move to the window's top, so that within a strip no
// row is computed twice. Ranges lie on the grid of each layer's Winograd tiles: the bits are those of the layers
// run one by one.

struct Range {
    int64_t begin, end;
    int64_t size() const { return end - begin; }
};

struct ChainPlan {
    const ChainParams* c;
    int64_t rows, height, columns;  // of a step, of a strip
    int64_t strips_y, strips_x;
    bool failed;
};

inline int64_t edge_of(const ChainParams& c, const ConvParams& p) { return c.kernels[p.kernel].edge; }

// What a layer reads along one axis for `out` of its pixels, as conv pixels of the layer before, `shuffle` results a
// side each: on its grid, of `size`.
inline Range needed(Range out, int64_t pad, int64_t kernel, int64_t edge, int64_t size, int64_t shuffle) {
    int64_t begin = out.begin - pad, end = out.end - pad + kernel - 1;
    const int64_t unit = edge * shuffle;
    begin = begin < 0 ? 0 : begin / unit * edge;
    end = end < 0 ? 0 : (end + unit - 1) / unit * edge;
    if (end > size) end = size;
    return {begin < end ? begin : end, end};
}

// The rows of conv pixels of a layer that are at hand, [begin, end), and the columns of them.
struct Window {
    char* data;
    Range rows, columns;
    int64_t pixel, line;  // strides of results, in elements
    int64_t shuffle;      // results a side of each
};

// Computes rows x columns of layer p of image n from `from`, or from p.x, into `to`, or into p.y.
bool run_piece(const ChainParams& c, const ConvParams& p, int64_t n, Range rows, Range columns,
               const Window* from, const Window* to) {
    ConvParams q = p;
    const auto from_here = [&](const View& view, int64_t y, int64_t x) {
        return const_cast<char*>(address(p, view, n, y, x));
    };
    q.n = 1, q.threads = 1;
    q.oh = rows.size(), q.ow = columns.size();
    q.pad_top -= rows.begin, q.pad_left -= columns.begin;
    if (from) {
        q.x = {from->data, 0, from->line, from->pixel};
        q.h = from->rows.size() * from->shuffle, q.w = from->columns.size() * from->shuffle;
        q.pad_top += from->rows.begin * from->shuffle, q.pad_left += from->columns.begin * from->shuffle;
    } else {
        q.x.data = from_here(p.x, 0, 0);
    }
    if (p.res1.data) q.res1.data = from_here(p.res1, rows.begin, columns.begin);
    if (p.res2.data) q.res2.data = from_here(p.res2, rows.begin, columns.begin);
    if (to) {
        const int64_t above = (rows.begin - to->rows.begin) * to->shuffle;
        q.y = {to->data + above * to->line * element_size(p.dtype), 0, to->line, to->pixel};
        q.stream = 0;
    } else {
        const int64_t s = p.shuffle, f = p.base_mode == kBaseNearest ? p.base_factor : 1;
        q.y.data = from_here(p.y, rows.begin * s, columns.begin * s);
        if (p.base_mode != kBaseNone)
            q.base.data = from_here(p.base, rows.begin * s / f, columns.begin * s / f);
    }
    return c.kernels[q.kernel].run(q);
}

// One strip, [out.begin, out.end) x columns of image n's last layer; false if there is no memory.
bool run_strip(const ChainPlan& plan, int64_t n, Range out, Range columns) {
    const ConvParams* layers = plan.c->layers;
    const int32_t last = plan.c->count - 1;
    const int64_t size = element_size(layers[0].dtype);
    Window windows[kMaxChain];
    int64_t room[kMaxChain], most = plan.rows, total = 0;  // room in bytes
    windows[last].columns = columns;
    for (int32_t i = last - 1; i >= 0; --i) {
        const ConvParams &p = layers[i], &next = layers[i + 1];
        Window& w = windows[i];
        const int64_t edge = edge_of(*plan.c, p);
        const int64_t s = w.shuffle = p.shuffle;
        w.columns = needed(windows[i + 1].columns, next.pad_left, next.kw, edge, p.ow, s);
        w.pixel = p.co / (s * s), w.line = w.columns.size() * s * w.pixel;
        most = (most + next.kh - 1 + s - 2) / s + 1 + 2 * (edge - 1);
        room[i] = (most < p.oh ? most : p.oh) * s * w.line * size;
        room[i] += -room[i] & 63;  // whole cache lines
        total += room[i];
    }
    char* memory = static_cast<char*>(scratch(static_cast<size_t>(total), 1));
    if (total && !memory) return false;
    Range need = {out.begin, out.begin};
    for (int32_t i = last; i >= 0; --i) {
        if (i < last) {
            const ConvParams& next = layers[i + 1];
            need = needed({need.begin, need.begin + 1}, next.pad_top, next.kh, edge_of(*plan.c, layers[i]),
                          layers[i].oh, layers[i].shuffle);
            windows[i].data = memory;
            memory += room[i];
        }
        windows[i].rows = {need.begin, need.begin};
    }
    for (int64_t stop = out.begin; stop < out.end;) {
        stop = out.end - stop < plan.rows ? out.end : stop + plan.rows;
        Range rows[kMaxChain];  // to be computed
        rows[last] = {windows[last].rows.end, stop};
        for (int32_t i = last - 1; i >= 0; --i) {
            const ConvParams& next = layers[i + 1];
            Window& w = windows[i];
            const Range read = needed(rows[i + 1], next.pad_top, next.kh, edge_of(*plan.c, layers[i]),
                                      layers[i].oh, w.shuffle);
            rows[i] = {w.rows.end, read.end > w.rows.end ? read.end : w.rows.end};
            const int64_t keep = read.begin < w.rows.end ? read.begin : w.rows.end;
            if (keep > w.rows.begin) {
                const int64_t line = w.shuffle * w.line * size;  // bytes of a row of conv pixels
                __builtin_memmove(w.data, w.data + (keep - w.rows.begin) * line,
                                  static_cast<size_t>((w.rows.end - keep) * line));
                w.rows.begin = keep;
            }
        }
        for (int32_t i = 0; i <= last; ++i) {
            Window& w = windows[i];
            w.rows.end = rows[i].end;
            if (!rows[i].size() || !w.columns.size()) continue;
            if (!run_piece(*plan.c, layers[i], n, rows[i], w.columns, i ? &windows[i - 1] : nullptr,
                           i < last ? &w : nullptr))
                return false;
        }
    }
    return true;
}

void run_strips(const void* context, int64_t begin, int64_t end) {
    ChainPlan& plan = *static_cast<ChainPlan*>(const_cast<void*>(context));
    const ConvParams& last = plan.c->layers[plan.c->count - 1];
    for (int64_t task = begin; task < end; ++task) {
        const int64_t y = task / plan.strips_x % plan.strips_y * plan.height,
                      x = task % plan.strips_x * plan.columns;
        const Range rows = {y, y + plan.height < last.oh ? y + plan.height : last.oh};
        const Range columns = {x, x + plan.columns < last.ow ? x + plan.columns : last.ow};
        if (!run_strip(plan, task / plan.strips_x / plan.strips_y, rows, columns))
            __atomic_store_n(&plan.failed, true, __ATOMIC_RELAXED);
    }
}

bool chain(const ChainParams& c) {
    const ConvParams& last = c.layers[c.count - 1];
    // Strips begin where a Winograd tile and a pixel of a nearest base begin.
    int64_t unit = edge_of(c, last);
    while (last.base_mode == kBaseNearest && unit * last.shuffle % last.base_factor) unit += edge_of(c, last);
    const auto whole = [unit](int64_t size) { return size > unit ? (size + unit - 1) / unit * unit : unit; };
    ChainPlan plan{&c, whole(c.rows), whole(c.height), whole(c.columns), 0, 0, false};
    plan.strips_y = (last.oh + plan.height - 1) / plan.height;
    plan.strips_x = (last.ow + plan.columns - 1) / plan.columns;
    parallel_for(last.n * plan.strips_y * plan.strips_x, 1, c.threads, run_strips, &plan);
    return !plan.failed;
}
