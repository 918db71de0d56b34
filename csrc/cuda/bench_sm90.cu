// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// Checks and times the Hopper convolution without PyTorch, against a plain kernel that sums in double
// precision.
//   nvcc -gencode=arch=compute_90a,code=sm_90a -O3 -std=c++17 -Icsrc csrc/cuda/bench_sm90.cu -o bench
//   ./bench (check | time) [resident | streamed | stacked | tail | staged] | versions
// With -DSRK_PROFILE, times are followed by where the clocks of a thread block go.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#define SRK_BOUNDED_WAIT
#include "cuda/conv2d_sm90.cu"
#include "cuda/conv2d_sm90_rare.cu"
#include "cuda/conv2d_sm90_staged.cu"
#include "cuda/conv2d_sm90_straight.cu"
#include "cuda/conv2d_tail.cu"

using namespace srk;

#define CHECK(call)                                                                            \
    do {                                                                                       \
        const cudaError_t e_ = (call);                                                         \
        if (e_ != cudaSuccess) {                                                               \
            std::printf("%s:%d: %s: %s\n", __FILE__, __LINE__, #call, cudaGetErrorString(e_)); \
            std::exit(2);                                                                      \
        }                                                                                      \
    } while (0)

// A kernel under test and how its weights are packed.
struct Version {
    const char* name;
    const char* (*reason)(const ConvParams&);  // why it doesn't take a convolution
    cudaError_t (*launch)(const ConvParams&, cudaStream_t);
    bool tail = false;  // for few outputs
    sm90::Path path = sm90::kStraight;
};
const Version kDirect{"straight", conv2d_sm90_reason, conv2d_sm90};
const Version kByBuffer{"staged", conv2d_sm90_staged_reason, conv2d_sm90_staged, false, sm90::kStaged};
const Version kFewOutputs{"tail", cuda::conv2d_tail_reason, cuda::conv2d_tail, true};

struct Case {
    const char* name;
    int n, h, w, ci, co, shuffle, act, residuals, base;
    int pad = 1;
    int slice = 0;  // channels by which x and y are wider than ci and co / shuffle^2
    int dtype = kFloat16;
    int act_after_add = 0;
};

__device__ uint32_t mix(uint64_t i, uint32_t seed) {
    uint64_t z = i * 0x9e3779b97f4a7c15ull + seed * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return static_cast<uint32_t>(z >> 32);
}

template <typename T>
__device__ T narrow(float v) {
    if constexpr (std::is_same_v<T, __half>)
        return __float2half_rn(v);
    else
        return __float2bfloat16_rn(v);
}

template <typename T>
__device__ double wide(T v) {
    if constexpr (std::is_same_v<T, __half>)
        return __half2float(v);
    else
        return __bfloat162float(v);
}

// Uniform in (-range, range).
template <typename T>
__global__ void fill(T* p, size_t count, float range, uint32_t seed) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
         i += size_t(gridDim.x) * blockDim.x) {
        const float v = (mix(i, seed) * 0x1p-31f - 1) * range;
        if constexpr (std::is_same_v<T, float>)
            p[i] = v;
        else
            p[i] = narrow<T>(v);
    }
}

struct Verdict {
    unsigned long long bad, touched, first;
    float got, wanted;  // of one wrong element
    float worst;        // error over what rounding once and float32 sums allow
};

__device__ double activation(double v, int act, double slope) {
    if (act == kRelu) return v < 0 ? 0 : v;
    if (act == kLeakyRelu || act == kPrelu) return v < 0 ? slope * v : v;
    if (act == kSilu) return v / (1 + exp(-v));
    if (act == kSigmoid) return 1 / (1 + exp(-v));
    return v;
}

template <typename T>
__device__ double read(const View& v, int64_t n, int64_t y, int64_t x, int64_t c) {
    return wide(static_cast<const T*>(v.data)[n * v.sn + y * v.sy + x * v.sx + c]);
}

// One thread an output; `w` is (q, tap, ci), plain.
template <typename T>
__global__ void compare(ConvParams p, const T* w, double unit, Verdict* verdict) {
    const size_t count = size_t(p.n) * p.oh * p.ow * p.co;
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
         i += size_t(gridDim.x) * blockDim.x) {
        const int q = i % p.co;
        const int64_t x = i / p.co % p.ow, y = i / p.co / p.ow % p.oh, n = i / p.co / p.ow / p.oh;
        double sum = p.bias[q], size = fabs(sum);
        for (int tap = 0; tap < 9; ++tap) {
            const int64_t iy = y + tap / 3 - p.pad_top, ix = x + tap % 3 - p.pad_left;
            if (iy < 0 || iy >= p.h || ix < 0 || ix >= p.w) continue;
            for (int c = 0; c < p.ci; ++c) {
                const double term = read<T>(p.x, n, iy, ix, c) * wide(w[(size_t(q) * 9 + tap) * p.ci + c]);
                sum += term;
                size += fabs(term);
            }
        }
        const double slope = p.act == kPrelu ? p.prelu[q] : p.slope;
        double v = p.act_after_add ? sum : activation(sum, p.act, slope);
        v *= p.scale;
        if (p.res1.data) v += double(p.b1) * read<T>(p.res1, n, y, x, q);
        if (p.res2.data) v += double(p.b2) * read<T>(p.res2, n, y, x, q);
        if (p.act_after_add) v = activation(v, p.act, slope);
        const int64_t s = p.shuffle, o = sm90::channel_offset(p.y, q, p.co, s);
        if (p.base_mode == kBaseNearest) v += read<T>(p.base, n, y, x, q % (p.co / (s * s)));
        if (p.base_mode == kBaseSame)
            v += wide((static_cast<const T*>(p.base.data) +
                       sm90::channel_offset(p.base, q, p.co,
                                            s))[n * p.base.sn + y * s * p.base.sy + x * s * p.base.sx]);
        const double got =
            wide(static_cast<const T*>(p.y.data)[n * p.y.sn + y * s * p.y.sy + x * s * p.y.sx + o]);
        const double allowed = unit * fabs(v) + 4e-6 * (size + fabs(v)) + 6e-8;
        const double ratio = fabs(got - v) / allowed;
        if (!(ratio <= 1) && atomicAdd(&verdict->bad, 1ull) == 0)
            verdict->first = i, verdict->got = static_cast<float>(got),
            verdict->wanted = static_cast<float>(v);
        const float r = ratio == ratio ? static_cast<float>(ratio) : 1e30f;
        atomicMax(reinterpret_cast<int*>(&verdict->worst), __float_as_int(r));
    }
}

// Elements that no output owns must still hold the poison.
__global__ void untouched(const unsigned short* p, size_t guard, size_t pixels, int wide_channels,
                          int channels, Verdict* verdict) {
    const size_t count = 2 * guard + pixels * wide_channels;
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < count;
         i += size_t(gridDim.x) * blockDim.x) {
        const bool inside = i >= guard && i < count - guard;
        const bool owned = inside && (i - guard) % wide_channels < channels;
        if (!owned && p[i] != 0xffff) atomicAdd(&verdict->touched, 1ull);
    }
}

// Where the clocks of the last launch went, of all blocks together.
void report() {
#ifdef SRK_PROFILE
    static unsigned long long spent[256][2][sm90::kSpents];
    CHECK(cudaMemcpyFromSymbol(spent, sm90::profile, sizeof spent));
    for (int group = 0; group < 2; ++group) {
        double sums[sm90::kSpents] = {}, clocks = 0, blocks = 0;
        for (const auto& block : spent)
            if (block[group][sm90::kNanoseconds]) {
                for (int i = 0; i < sm90::kSpents; ++i) sums[i] += block[group][i];
                ++blocks;
            }
        for (int i = 0; i < sm90::kNanoseconds; ++i) clocks += sums[i];
        std::printf(
            "    group %d: %.0f clocks in %.1f us (%.2f GHz): turn %.1f%%, tile %.1f%%, product %.1f%%, "
            "epilogue %.1f%%\n",
            group, clocks / blocks, sums[sm90::kNanoseconds] / blocks * 1e-3,
            clocks / sums[sm90::kNanoseconds], 100 * sums[sm90::kTurn] / clocks,
            100 * sums[sm90::kTile] / clocks, 100 * sums[sm90::kProduct] / clocks,
            100 * sums[sm90::kEpilogue] / clocks);
    }
#endif
}

template <typename T>
struct Problem {
    ConvParams p{};
    Case c;
    T *x, *plain, *r1, *r2, *base, *packed, *y;
    float *bias, *prelu;
    size_t y_count, guard = 4096, y_pixels;
    int y_channels;
    Version version;
    Verdict* verdict;

    template <typename U>
    U* random(size_t count, float range, uint32_t seed) {
        U* d;
        CHECK(cudaMalloc(&d, count * sizeof(U)));
        fill<<<1024, 256>>>(d, count, range, seed);
        CHECK(cudaGetLastError());
        return d;
    }

    static View view(T* data, int64_t h, int64_t w, int64_t channels) {
        return View{data, h * w * channels, w * channels, channels};
    }

    // Packed weights lie behind each other by block of outputs and chunk of inputs, zeros in what is padded.
    std::vector<uint16_t> pack(const std::vector<uint16_t>& w) const {
        const bool tail = version.tail;
        const int stack = sm90::stacked_rows(p), rows = tail ? 4 : 64 / stack, depth = tail ? 32 : 64;
        const int blocks = (c.co + rows - 1) / rows, chunks = (c.ci + depth - 1) / depth;
        std::vector<uint16_t> image(size_t(blocks) * chunks * 9 * rows * depth + (tail ? 4096 : 0));
        for (int q = 0; q < blocks * rows; ++q)
            for (int tap = 0; tap < 9; ++tap)
                for (int ci = 0; ci < c.ci; ++ci) {
                    const int block = q / rows, row = q % rows, k = ci % depth;
                    const int channel = tail ? q : block * rows + sm90::row_channel(row, version.path);
                    if (channel >= c.co) continue;
                    const size_t at = size_t(block * chunks + ci / depth) * 9 * rows * depth;
                    image[at + (tail ? (tap * rows + row) * depth + k
                                     : sm90::weight_index(stack, tap / 3, tap % 3, row, k))] =
                        w[(size_t(channel) * 9 + tap) * c.ci + ci];
                }
        return image;
    }

    Problem(const Case& k, const Version& v) : c(k), version(v) {
        const int s = c.shuffle, oh = c.h + 2 * c.pad - 2, ow = c.w + 2 * c.pad - 2, wide_ci = c.ci + c.slice;
        y_channels = c.co / (s * s) + c.slice;
        x = random<T>(size_t(c.n) * c.h * c.w * wide_ci, 1, 1);
        plain = random<T>(size_t(c.co) * 9 * c.ci, std::sqrt(3.f / (9 * c.ci)), 2);
        const int co_padded = (c.co + 63) / 64 * 64;
        bias = random<float>(co_padded, 0.5f, 3);
        prelu = random<float>(co_padded, 0.5f, 4);
        r1 = random<T>(size_t(c.n) * oh * ow * c.co, 1, 5);
        r2 = random<T>(size_t(c.n) * oh * ow * c.co, 1, 6);
        base = random<T>(size_t(c.n) * oh * ow * c.co, 1, 7);
        y_pixels = size_t(c.n) * oh * ow * s * s;
        y_count = y_pixels * y_channels;
        CHECK(cudaMalloc(&y, (y_count + 2 * guard) * 2));
        CHECK(cudaMemset(y, 0xff, (y_count + 2 * guard) * 2));
        CHECK(cudaMalloc(&verdict, sizeof(Verdict)));
        CHECK(cudaMemset(verdict, 0, sizeof(Verdict)));

        p.x = view(x, c.h, c.w, wide_ci);
        p.y = view(y + guard, int64_t(oh) * s, int64_t(ow) * s, y_channels);
        if (c.residuals > 0) p.res1 = view(r1, oh, ow, c.co);
        if (c.residuals > 1) p.res2 = view(r2, oh, ow, c.co);
        if (c.base) p.base = view(base, int64_t(oh) * s, int64_t(ow) * s, c.co / (s * s));
        if (c.base == kBaseNearest) p.base = view(base, oh, ow, c.co / (s * s));
        p.base_mode = c.base, p.base_factor = s;
        p.bias = bias;
        p.prelu = c.act == kPrelu ? prelu : nullptr;
        p.n = c.n, p.h = c.h, p.w = c.w, p.ci = c.ci, p.oh = oh, p.ow = ow, p.co = c.co;
        p.pad_top = p.pad_left = c.pad;
        p.kh = p.kw = 3;
        p.stride_y = p.stride_x = p.dilation_y = p.dilation_x = p.step = 1;
        p.act = c.act, p.act_after_add = c.act_after_add, p.shuffle = s, p.dtype = c.dtype;
        p.slope = 0.2f, p.scale = c.residuals ? 0.25f : 1.f, p.b1 = 0.75f, p.b2 = -1.5f;
        std::vector<uint16_t> w(size_t(c.co) * 9 * c.ci);
        CHECK(cudaMemcpy(w.data(), plain, w.size() * 2, cudaMemcpyDeviceToHost));
        const std::vector<uint16_t> image = pack(w);
        CHECK(cudaMalloc(&packed, image.size() * 2));
        CHECK(cudaMemcpy(packed, image.data(), image.size() * 2, cudaMemcpyHostToDevice));
        p.weight = reinterpret_cast<const float*>(packed);
        CHECK(cudaDeviceSynchronize());
    }

    ~Problem() {
        for (void* d : {(void*)x, (void*)plain, (void*)r1, (void*)r2, (void*)base, (void*)packed, (void*)y,
                        (void*)bias, (void*)prelu, (void*)verdict})
            CHECK(cudaFree(d));
    }

    bool check() {
        if (const char* reason = version.reason(p))
            return std::printf("%-28s refused: %s\n", c.name, reason), false;
        CHECK(version.launch(p, nullptr));
        CHECK(cudaDeviceSynchronize());
        const double unit = std::is_same_v<T, __half> ? 0x1p-11 : 0x1p-8;
        compare<<<2048, 256>>>(p, plain, unit, verdict);
        untouched<<<1024, 256>>>(reinterpret_cast<unsigned short*>(y), guard, y_pixels, y_channels,
                                 y_channels - c.slice, verdict);
        CHECK(cudaGetLastError());
        Verdict v;
        CHECK(cudaMemcpy(&v, verdict, sizeof v, cudaMemcpyDeviceToHost));
        const bool good = v.bad == 0 && v.touched == 0;
        std::printf("%-28s %s  error/allowed %.3g, bad %llu, strayed %llu\n", c.name, good ? "ok  " : "FAIL",
                    v.worst, v.bad, v.touched);
        if (v.bad) {
            const unsigned long long q = v.first % p.co, x = v.first / p.co % p.ow,
                                     y = v.first / p.co / p.ow % p.oh;
            std::printf("    for example y %llu, x %llu, channel %llu: %g, should be %g\n", y, x, q, v.got,
                        v.wanted);
        }
        return good;
    }

    void time() {
        if (const char* reason = version.reason(p)) {
            std::printf("%-28s refused: %s\n", c.name, reason);
            return;
        }
        cudaEvent_t begin, end;
        CHECK(cudaEventCreate(&begin));
        CHECK(cudaEventCreate(&end));
        const int repeats = 20, batch = 10;
        std::vector<float> us;
        for (int r = -5; r < repeats; ++r) {
            CHECK(cudaEventRecord(begin));
            for (int i = 0; i < batch; ++i) CHECK(version.launch(p, nullptr));
            CHECK(cudaEventRecord(end));
            CHECK(cudaEventSynchronize(end));
            float ms;
            CHECK(cudaEventElapsedTime(&ms, begin, end));
            if (r >= 0) us.push_back(ms * 1e3f / batch);
        }
        std::sort(us.begin(), us.end());
        cudaDeviceProp device;
        CHECK(cudaGetDeviceProperties(&device, 0));
        const double rate = 790e12, bandwidth = std::strstr(device.name, "H200") ? 4.3e12 : 3.0e12;
        const double pixels = double(c.n) * p.oh * p.ow, flop = pixels * 18 * c.ci * c.co;
        const double bytes = 2 * pixels * (c.ci + c.co * (1 + c.residuals + (c.base == kBaseSame)));
        const double floor = std::max(flop / rate, bytes / bandwidth) * 1e6, median = us[us.size() / 2];
        std::printf("%-28s %8.1f us (%.1f to %.1f) %7.1f TFLOP/s  floor %6.1f us, %.2f of it %s\n", c.name,
                    median, us[0], us.back(), flop / median * 1e-6, floor, floor / median, version.name);
        report();
        CHECK(cudaEventDestroy(begin));
        CHECK(cudaEventDestroy(end));
    }
};

bool run(const Case& c, const Version& version, bool check) {
    bool good = true;
    const auto go = [&](auto&& problem) { check ? void(good = problem.check()) : problem.time(); };
    if (c.dtype == kFloat16)
        go(Problem<__half>(c, version));
    else
        go(Problem<__nv_bfloat16>(c, version));
    std::fflush(stdout);
    return good;
}

const Case kChecks[] = {
    {"1x1", 1, 1, 1, 64, 64, 1, kNone, 0, 0},
    {"5x7 relu", 1, 5, 7, 64, 64, 1, kRelu, 0, 0},
    {"33x17 leaky", 1, 33, 17, 64, 64, 1, kLeakyRelu, 0, 0},
    {"64x48 x2 prelu+res", 2, 64, 48, 64, 64, 1, kPrelu, 1, 0},
    {"181x323 prelu+2 res", 1, 181, 323, 64, 64, 1, kPrelu, 2, 0},
    {"181x323 bf16 x2", 2, 181, 323, 64, 64, 1, kPrelu, 1, 0, 1, 0, kBFloat16},
    {"100x90 no padding", 1, 100, 90, 64, 64, 1, kRelu, 0, 0, 0},
    {"100x90 padding 2", 1, 100, 90, 64, 64, 1, kSilu, 0, 0, 2},
    {"70x90 slices, after add", 1, 70, 90, 64, 64, 1, kRelu, 2, 0, 1, 64, kFloat16, 1},
    {"70x90 ci 48 sigmoid", 1, 70, 90, 48, 64, 1, kSigmoid, 0, 0},
    {"70x90 co 100", 1, 70, 90, 64, 100, 1, kRelu, 1, 0},
    {"70x90 co 104", 2, 70, 90, 64, 104, 1, kRelu, 1, 0},
    {"22x16 after add", 1, 22, 16, 64, 64, 1, kPrelu, 1, 0, 1, 0, kFloat16, 1},
    {"23x9 ci 128 bf16 2 res", 3, 23, 9, 128, 64, 1, kSilu, 2, 0, 1, 0, kBFloat16},
    {"70x90 co 30, slice 8", 1, 70, 90, 64, 30, 1, kRelu, 1, 0, 1, 8},
    {"70x90 co 5", 1, 70, 90, 64, 5, 1, kNone, 0, 0},
    {"70x90 256 shuffle 2", 2, 70, 90, 64, 256, 2, kPrelu, 0, 0},
    {"70x90 256 shuffle 2 base", 1, 70, 90, 64, 256, 2, kNone, 0, kBaseSame},
    {"70x90 48 shuffle 4 base", 1, 70, 90, 64, 48, 4, kNone, 0, kBaseSame},
    {"71x91 12 shuffle 2 base", 1, 71, 91, 64, 12, 2, kNone, 0, kBaseSame},
    {"5x7 co 32", 1, 5, 7, 64, 32, 1, kNone, 0, 0},
    {"181x323 co 32 leaky x2", 2, 181, 323, 64, 32, 1, kLeakyRelu, 0, 0},
    {"70x90 ci 96 co 32 slices", 1, 70, 90, 96, 32, 1, kLeakyRelu, 1, 0, 1, 64},
    {"181x323 ci 160 co 32", 1, 181, 323, 160, 32, 1, kPrelu, 0, 0},
    {"70x90 ci 32 co 24", 1, 70, 90, 32, 24, 1, kRelu, 0, 0},
    {"70x90 48 shuffle 4 nearest", 2, 70, 90, 64, 48, 4, kNone, 0, kBaseNearest},
    {"70x90 ci 96", 2, 70, 90, 96, 64, 1, kLeakyRelu, 0, 0},
    {"70x90 ci 192 slice res", 1, 70, 90, 192, 64, 1, kNone, 2, 0, 1, 64},
    {"70x90 128->128", 1, 70, 90, 128, 128, 1, kRelu, 0, 0},
    {"256x256 128->256 bf16", 1, 256, 256, 128, 256, 1, kRelu, 1, 0, 1, 0, kBFloat16},
    {"57x40 ci 72 co 32", 2, 57, 40, 72, 32, 1, kRelu, 0, 0},
    {"28x8 ci 192 co 8", 1, 28, 8, 192, 8, 1, kNone, 0, 0},
    {"29x9 ci 128 co 32 bf16", 3, 29, 9, 128, 32, 1, kLeakyRelu, 2, 0, 1, 0, kBFloat16},
    {"70x90 ci 200 co 40", 1, 70, 90, 200, 40, 1, kLeakyRelu, 0, 0},
    {"71x91 12 shuffle 2 nearest", 1, 71, 91, 64, 12, 2, kRelu, 0, kBaseNearest},
    {"71x91 4 shuffle 2 nearest", 2, 71, 91, 32, 4, 2, kRelu, 0, kBaseNearest},
    {"70x90 64 shuffle 4 nearest", 1, 70, 90, 64, 64, 4, kNone, 0, kBaseNearest},
    {"70x90 co 3", 1, 70, 90, 64, 3, 1, kNone, 0, 0},
    {"720x1280 prelu+res", 1, 720, 1280, 64, 64, 1, kPrelu, 1, 0},
};

const Case kTailChecks[] = {
    {"1x1", 1, 1, 1, 64, 3, 1, kNone, 0, 0},
    {"70x90", 2, 70, 90, 64, 3, 1, kNone, 0, 0},
    {"33x65 res, slice 8", 1, 33, 65, 64, 3, 1, kRelu, 1, 0, 1, 8},
    {"33x65 co 1 ci 32", 1, 33, 65, 32, 1, 1, kNone, 0, 0},
    {"33x65 co 2 ci 16 prelu", 1, 33, 65, 16, 2, 1, kPrelu, 0, 0},
    {"33x65 co 4 ci 128 bf16", 1, 33, 65, 128, 4, 1, kLeakyRelu, 1, 0, 1, 0, kBFloat16},
    {"33x65 co 4 shuffle 2 base", 2, 33, 65, 72, 4, 2, kNone, 0, kBaseNearest},
    {"100x90 no padding", 1, 100, 90, 64, 3, 1, kSigmoid, 0, 0, 0},
    {"720x1280", 1, 720, 1280, 64, 3, 1, kNone, 0, 0},
};

const Case kTailTimes[] = {
    {"64->3 tail", 1, 720, 1280, 64, 3, 1, kNone, 0, 0},
    {"64->3 tail 2880x5120", 1, 2880, 5120, 64, 3, 1, kNone, 0, 0},
    {"64->3 tail bf16", 1, 720, 1280, 64, 3, 1, kNone, 0, 0, 1, 0, kBFloat16},
    {"32->1 tail", 1, 720, 1280, 32, 1, 1, kNone, 0, 0},
};

const Case kTimes[] = {
    {"64->64 relu", 1, 720, 1280, 64, 64, 1, kRelu, 0, 0},
    {"64->64 prelu+res", 1, 720, 1280, 64, 64, 1, kPrelu, 1, 0},
    {"64->64 bf16 leaky", 1, 720, 1280, 64, 64, 1, kLeakyRelu, 0, 0, 1, 0, kBFloat16},
    {"64->256 shuffle 2", 1, 720, 1280, 64, 256, 2, kNone, 0, 0},
    {"64->48 shuffle 4 nearest", 1, 720, 1280, 64, 48, 4, kNone, 0, kBaseNearest},
    {"64->32 leaky", 1, 720, 1280, 64, 32, 1, kLeakyRelu, 0, 0},
    {"96->32 leaky", 1, 720, 1280, 96, 32, 1, kLeakyRelu, 0, 0},
    {"128->32 leaky", 1, 720, 1280, 128, 32, 1, kLeakyRelu, 0, 0},
    {"160->32 leaky", 1, 720, 1280, 160, 32, 1, kLeakyRelu, 0, 0},
    {"128->128 relu", 1, 720, 1280, 128, 128, 1, kRelu, 0, 0},
    {"192->64 2 res", 1, 720, 1280, 192, 64, 1, kNone, 2, 0},
    {"64->3", 1, 720, 1280, 64, 3, 1, kNone, 0, 0},
    {"64->64 256x256", 1, 256, 256, 64, 64, 1, kRelu, 0, 0},
};

bool takes(const Case& c, const char* group) {
    if (group && !std::strcmp(group, "staged"))
        return c.co > 32 && c.co % 8 == 0 && !c.base && (c.shuffle == 1 || c.co / c.shuffle % 64 == 0);
    const char* own = c.co <= 32 ? "stacked" : c.ci > 64 ? "streamed" : "resident";
    return !group || !std::strcmp(group, own);
}

int main(int argc, char** argv) {
    const char *what = argc > 1 ? argv[1] : "", *group = argc > 2 ? argv[2] : nullptr;
    const bool check = !std::strcmp(what, "check"), tail = group && !std::strcmp(group, "tail");
    const Version& version = tail                                     ? kFewOutputs
                             : group && !std::strcmp(group, "staged") ? kByBuffer
                                                                      : kDirect;
    int failed = 0;
    if (check || !std::strcmp(what, "time")) {
        const std::vector<Case> checks(std::begin(kChecks), std::end(kChecks)),
            times(std::begin(kTimes), std::end(kTimes)),
            tail_checks(std::begin(kTailChecks), std::end(kTailChecks)),
            tail_times(std::begin(kTailTimes), std::end(kTailTimes));
        for (const Case& c : check ? (tail ? tail_checks : checks) : (tail ? tail_times : times))
            if (tail || takes(c, group)) failed += !run(c, version, check);
        return failed != 0;
    }
    if (!std::strcmp(what, "versions")) {
        for (const Case& c : kTimes)
            if (takes(c, "staged"))
                for (const Version& v : {kDirect, kByBuffer, kDirect, kByBuffer}) run(c, v, false);
        return 0;
    }
    return std::printf(
               "usage: bench (check | time) [resident | streamed | stacked | tail | staged] | versions\n"),
           1;
}
