// Copyright (c) 2026 the sr_kernels authors.
// SPDX-License-Identifier: Apache-2.0
// The kernels' index maps by themselves. Prints a line for each: its name and "right", or where it is wrong.
#include <cstdio>
#include <set>
#include <string>

#include "cuda/conv2d_sm80.cuh"
#include "cuda/conv2d_sm90.cuh"

namespace {

using namespace srk;

std::string at(const char* what, int64_t a, int64_t b) {
    return std::string(what) + " at " + std::to_string(a) + ", " + std::to_string(b);
}

std::string divisor() {
    for (uint32_t d = 1; d < 5000; d += d < 300 ? 1 : 97)
        for (uint32_t k : {0u, 1u, 2u, 3u, 1000u, (1u << 31) / d - 1, (1u << 31) / d})
            for (int64_t n :
                 {int64_t{k} * d - 1, int64_t{k} * d, int64_t{k} * d + 1, (int64_t{1} << 31) - 1}) {
                if (n < 0 || n >= int64_t{1} << 31) continue;
                const auto u = static_cast<uint32_t>(n);
                if (cuda::Divisor(d).over(u) != u / d || cuda::Divisor(d).rest(u) != u % d)
                    return at("wrong", n, d);
            }
    return "right";
}

// Pieces stay in their row; those of eight rows, from any row on, lie in different banks; the next sixteen
// channels lie at an exclusive or.
template <int Depth>
std::string swizzle() {
    for (int row = 0; row < 64; ++row) {
        std::set<uint32_t> pieces;
        for (int piece = 0; piece < Depth / 8; ++piece) {
            const uint32_t here = cuda::offset<Depth>(row, piece);
            pieces.insert(here);
            if (here / (Depth * 2) != static_cast<uint32_t>(row) || here % 16) return at("row", row, piece);
            if (piece < 2)
                for (int k = 0; k < Depth / 16; ++k)
                    if ((here ^ 32 * k) != cuda::offset<Depth>(row, piece + 2 * k)) return at("next", row, k);
            std::set<uint32_t> banks;
            for (int i = 0; i < 8; ++i) banks.insert(cuda::offset<Depth>(row + i, piece) / 16 % 8);
            if (banks.size() != 8) return at("banks", row, piece);
        }
        if (pieces.size() != Depth / 8) return at("pieces", row, 0);
    }
    return "right";
}

// A thread holds columns 2t and 2t + 1 of each eight: of Run / 2 eights these are Run adjacent channels.
template <int Run>
std::string runs() {
    for (int block = 0; block < 128; block += 4 * Run)
        for (int t = 0; t < 4; ++t)
            for (int i = 0; i < Run; ++i)
                if (cuda::channel_of_row<Run>(block + i / 2 * 8 + 2 * t + i % 2) != block + t * Run + i)
                    return at("wrong", t, i);
    return "right";
}

// Two transposes hand rows 2t, 2t + 1, 8 + 2t and 9 + 2t to one thread.
std::string rows() {
    for (int sixteen = 0; sixteen < 64; sixteen += 16)
        for (int t = 0; t < 4; ++t)
            for (int i = 0; i < 4; ++i)
                if (sm90::row_channel(sixteen + i / 2 * 8 + 2 * t + i % 2) != sixteen + 4 * t + i)
                    return at("straight", t, i);
    for (int row = 0; row < 64; ++row)
        if (sm90::row_channel(row, sm90::kStaged) != row) return at("staged", row, 0);
    return "right";
}

// Every place once, rows of 64 channels as the copy engine swizzles them.
std::string weights(int stack) {
    std::set<int> places;
    const int outputs = sm90::kChannels / stack, count = 9 * outputs * sm90::kChannels;
    for (int dy = 0; dy < 3; ++dy)
        for (int dx = 0; dx < 3; ++dx)
            for (int row = 0; row < outputs; ++row)
                for (int c = 0; c < sm90::kChannels; ++c) {
                    const int place = sm90::weight_index(stack, dy, dx, row, c), unit = place / 8;
                    places.insert(place);
                    if (place < 0 || place >= count) return at("beyond", row, c);
                    if ((unit % 8 ^ unit / 8 % 8) != c / 8 || place % 8 != c % 8)
                        return at("swizzle", row, c);
                }
    return static_cast<int>(places.size()) == count ? "right" : "places that two share";
}

// Tiles cover all conv pixels of all pictures once, in both kernels.
template <class Place>
std::string tiles(int n, int h, int w, int height, int width, int count, Place place) {
    std::set<std::array<int, 3>> corners;
    for (int tile = 0; tile < count; ++tile) {
        const std::array<int, 3> c = place(tile);
        if (c[0] >= n || c[1] >= h || c[2] >= w || c[1] % height || c[2] % width)
            return at("tile", tile, c[1]);
        corners.insert(c);
    }
    const int all = n * ((h + height - 1) / height) * ((w + width - 1) / width);
    return static_cast<int>(corners.size()) == all && count == all ? "right" : "tiles that two share";
}

std::string portable_tiles() {
    const int n = 3, h = 35, w = 50, x = (w + 15) / 16, y = (h + 15) / 16;
    cuda::Conv2dArgs a{};
    a.tiles_x = cuda::Divisor(x), a.tiles_y = cuda::Divisor(y);
    return tiles(n, h, w, 16, 16, n * x * y, [&](int tile) {
        const cuda::TilePlace t(a, tile);
        return std::array<int, 3>{t.n, t.y0, t.x0};
    });
}

template <class C>
std::string hopper_tiles() {
    const int n = 3, h = 75, w = 50;
    sm90::Plan plan{};
    plan.tiles_x = (w + C::kTileX - 1) / C::kTileX, plan.tiles_y = (h + C::kTileY - 1) / C::kTileY;
    return tiles(n, h, w, C::kTileY, C::kTileX, n * plan.tiles_x * plan.tiles_y, [&](int tile) {
        const sm90::Corner at = sm90::corner<C>(plan, tile);
        return std::array<int, 3>{at.n, at.y, at.x};
    });
}

// Packed channel d*C + c is channel c of sub-pixel d, row by row, as a pixel shuffle stores it.
std::string shuffled() {
    for (int s = 1; s <= 4; ++s)
        for (int colours : {1, 3, 8}) {
            const View v{
                nullptr,
                0,
                1000,
                colours,
            };
            for (int d = 0; d < s * s; ++d)
                for (int c = 0; c < colours; ++c)
                    if (sm90::channel_offset(v, d * colours + c, colours * s * s, s) !=
                        d / s * 1000 + d % s * colours + c)
                        return at("wrong", s, d);
        }
    return "right";
}

void tell(const char* name, const std::string& said) { std::printf("%s: %s\n", name, said.c_str()); }

}  // namespace

int main() {
    using namespace srk::sm90;
    tell("divisor", divisor());
    tell("swizzle 16", swizzle<16>());
    tell("swizzle 32", swizzle<32>());
    tell("swizzle 64", swizzle<64>());
    tell("runs of 2", runs<2>());
    tell("runs of 4", runs<4>());
    tell("runs of 8", runs<8>());
    tell("rows", rows());
    tell("weights", weights(1));
    tell("stacked weights", weights(2));
    tell("portable tiles", portable_tiles());
    tell("tiles in halves",
         hopper_tiles<Config<kResident, kHalves, kInTurn, kVector, 1, kStraight, kUsual>>());
    tell("own tiles", hopper_tiles<Config<kResident, kOwn, kInTurn, kVector, 2, kStraight, kUsual>>());
    tell("shuffled", shuffled());
}
