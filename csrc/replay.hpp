// Augmentation recomputed from its key: Philox4x32-10, and the parameters of a view drawn from it. No Python in here.
//
// Only +, -, *, / and sqrt touch a float, so that NumPy (vqlabel/reference.py) computes the same bits; the build
// forbids the compiler to fuse them. Laws that need more come as tables of their quantiles.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>

namespace vqlabel {

using Draws = std::array<uint32_t, 4>;

// One block of four draws.
inline Draws philox(Draws counter, uint64_t key) {
    auto low = static_cast<uint32_t>(key), high = static_cast<uint32_t>(key >> 32);
    for (int round = 0; round < 10; ++round, low += 0x9E3779B9u, high += 0xBB67AE85u) {
        const uint64_t a = uint64_t{0xD2511F53u} * counter[0], b = uint64_t{0xCD9E8D57u} * counter[2];
        counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ low, static_cast<uint32_t>(b),
                   static_cast<uint32_t>(a >> 32) ^ counter[3] ^ high, static_cast<uint32_t>(a)};
    }
    return counter;
}

// A draw as a number in [0, 1), exactly.
inline double unit(uint32_t draw) { return draw * (1.0 / 4294967296.0); }

// A draw as a whole number in [0, n), for n up to 2^32.
inline int64_t below(uint32_t draw, int64_t n) {
    return static_cast<int64_t>((uint64_t{draw} * static_cast<uint64_t>(n)) >> 32);
}

// Which draws are for what. A use never moves: new ones take new streams, so that old files replay for ever.
enum Stream : uint32_t { kCropStream = 0, kFlipStream = 1, kMixStream = 2 };

constexpr int kCropTries = 10;
constexpr size_t kTableSteps = 4096;

// The quantile at u of a law given at the multiples of 1 / kTableSteps, straight lines between them.
inline double quantile(const double* table, double u) {
    const double position = u * static_cast<double>(kTableSteps);
    const auto step = static_cast<size_t>(position);
    return table[step] + (position - static_cast<double>(step)) * (table[step + 1] - table[step]);
}

struct Box {
    int32_t top, left, height, width;
};

enum MixKind : uint8_t { kNoMix = 0, kCutMix = 1, kMixUp = 2 };

struct ReplayLaw {
    uint64_t seed;
    int64_t images;  // a partner is one of these
    double scale_low, scale_high;
    const double* ratio;  // tables of kTableSteps + 1 quantiles
    double flip, cutmix, mixup;
    const double *cutmix_share, *mixup_share;
    int32_t size;  // side of a view
};

// A part of the image of random area and shape, as it fits; the middle of the image after ten that do not.
inline Box draw_crop(const ReplayLaw& law, uint32_t image, uint32_t epoch, int32_t height, int32_t width) {
    const double area = static_cast<double>(height) * width;
    for (uint32_t attempt = 0; attempt < kCropTries; ++attempt) {
        const Draws draws = philox({image, epoch, kCropStream, attempt}, law.seed);
        const double target = area * (law.scale_low + unit(draws[0]) * (law.scale_high - law.scale_low));
        const double ratio = quantile(law.ratio, unit(draws[1]));
        const double w = std::floor(std::sqrt(target * ratio) + 0.5);
        const double h = std::floor(std::sqrt(target / ratio) + 0.5);
        if (!(w >= 1 && h >= 1 && w <= width && h <= height)) continue;
        const auto crop_w = static_cast<int32_t>(w), crop_h = static_cast<int32_t>(h);
        return {static_cast<int32_t>(below(draws[2], height - crop_h + 1)),
                static_cast<int32_t>(below(draws[3], width - crop_w + 1)), crop_h, crop_w};
    }
    const double ratio = static_cast<double>(width) / height;
    const double nearest = std::min(std::max(ratio, law.ratio[0]), law.ratio[kTableSteps]);
    const double w = ratio > nearest ? std::floor(height * nearest + 0.5) : width;
    const double h = ratio < nearest ? std::floor(width / nearest + 0.5) : height;
    const auto crop_w = static_cast<int32_t>(std::max(w, 1.0)), crop_h = static_cast<int32_t>(std::max(h, 1.0));
    return {(height - crop_h) / 2, (width - crop_w) / 2, crop_h, crop_w};
}

inline bool draw_flip(const ReplayLaw& law, uint32_t image, uint32_t epoch) {
    return unit(philox({image, epoch, kFlipStream, 0}, law.seed)[0]) < law.flip;
}

struct Mix {
    MixKind kind;
    int64_t partner;  // -1 where nothing is mixed in
    double share;     // of the image itself: lambda
    Box cut;          // of the view of size x size, where the partner shows
};

// `mixer` is the image, or the batch where all its rows share one draw.
inline Mix draw_mix(const ReplayLaw& law, uint32_t mixer, uint32_t epoch) {
    const int32_t size = law.size;
    const Draws draws = philox({mixer, epoch, kMixStream, 0}, law.seed);
    const double u = unit(draws[0]);
    if (u >= law.cutmix + law.mixup) return {kNoMix, -1, 1.0, {0, 0, 0, 0}};
    const int64_t partner = below(draws[1], law.images);
    if (u >= law.cutmix) return {kMixUp, partner, quantile(law.mixup_share, unit(draws[2])), {0, 0, 0, 0}};
    const double share = quantile(law.cutmix_share, unit(draws[2]));
    const auto side = static_cast<int32_t>(size * std::sqrt(1.0 - share));
    const Draws centre = philox({mixer, epoch, kMixStream, 1}, law.seed);
    const auto y = static_cast<int32_t>(below(centre[0], size)), x = static_cast<int32_t>(below(centre[1], size));
    const int32_t top = std::max(y - side / 2, 0), left = std::max(x - side / 2, 0);
    const int32_t bottom = std::min(y + side / 2, size), right = std::min(x + side / 2, size);
    const Box cut = {top, left, bottom - top, right - left};
    const double covered = static_cast<double>(cut.height) * cut.width / (static_cast<double>(size) * size);
    return {kCutMix, partner, 1.0 - covered, cut};
}

struct Rows {
    const int64_t *epochs, *images, *mixers;
    const int32_t* sizes;  // [rows, 2] height and width of the source images
};

struct Views {
    Box* crops;
    bool* flips;
    uint8_t* kinds;
    int64_t* partners;
    double* shares;
    Box* cuts;
};

inline void draw_views(const ReplayLaw& law, const Rows& in, size_t rows, const Views& out) {
    for (size_t i = 0; i < rows; ++i) {
        const auto epoch = static_cast<uint32_t>(in.epochs[i]), image = static_cast<uint32_t>(in.images[i]);
        out.crops[i] = draw_crop(law, image, epoch, in.sizes[2 * i], in.sizes[2 * i + 1]);
        out.flips[i] = draw_flip(law, image, epoch);
        const Mix mix = draw_mix(law, static_cast<uint32_t>(in.mixers[i]), epoch);
        out.kinds[i] = mix.kind;
        out.partners[i] = mix.partner;
        out.shares[i] = mix.share;
        out.cuts[i] = mix.cut;
    }
}

}  // namespace vqlabel
