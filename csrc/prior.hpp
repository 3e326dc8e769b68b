// What a row is expected to be, from the classes of its two images and how they are mixed. No Python in here.
#pragma once

#include <atomic>

#include "threads.hpp"

namespace vqlabel {

// Tables by class and by regime.
struct PriorTables {
    const float *own, *other;            // [classes, width]
    const float *own_gain, *other_gain;  // [regimes]
    const float* offset;                 // [regimes, width]
    size_t classes, regimes, width;
};

// What the rows are, by index.
struct PriorRows {
    const int64_t *own, *other, *regime;
};

// h[i] = own_gain * own + other_gain * other + offset. Returns the first row with an index that names nothing, or n.
inline size_t class_prior(const PriorTables& tables, const PriorRows& rows, size_t n, float* h, size_t threads) {
    std::atomic<size_t> first_bad{n};
    for_row_ranges(n, threads, [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end; ++i) {
            // a negative index becomes a huge one
            const auto own = static_cast<uint64_t>(rows.own[i]), other = static_cast<uint64_t>(rows.other[i]);
            const auto regime = static_cast<uint64_t>(rows.regime[i]);
            if (own >= tables.classes || other >= tables.classes || regime >= tables.regimes) {
                size_t seen = first_bad;
                while (i < seen && !first_bad.compare_exchange_weak(seen, i)) {}
                return;
            }
            const size_t width = tables.width;
            const float a = tables.own_gain[regime], b = tables.other_gain[regime];
            const float *from = tables.own + own * width, *to = tables.other + other * width;
            const float* offset = tables.offset + regime * width;
            float* row = h + i * width;
            for (size_t r = 0; r < width; ++r) row[r] = (a * from[r] + b * to[r]) + offset[r];
        }
    });
    return first_bad;
}

}  // namespace vqlabel
