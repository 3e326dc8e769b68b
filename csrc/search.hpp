// The search for codes: product quantisation and additive books. No Python in here.
//
// Bytes must not depend on the processor: all sums are of floats, in the order that vqlabel/reference.py shows.
// Whatever the numbers are, and even if they change meanwhile, no code is out of range.
#pragma once

#include <limits>
#include <utility>

#include "floats.hpp"
#include "threads.hpp"

namespace vqlabel {

constexpr size_t kMaxWords = size_t{1} << 16;
constexpr size_t kMaxBeam = 64;
constexpr size_t kTile = 4;       // rows searched abreast, so that a load of a word serves them all
constexpr size_t kTileRows = 64;  // rows that pass while the book of a group stays in the nearest cache
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A choice of words from the books up to some book, and what it takes to extend it by the next.
struct Partial {
    float score;
    uint32_t entry;            // its place in the beam
    const float* dots;         // [words]
    const float* const* gram;  // [past][words]
    size_t past;
};

struct Candidate {
    float score;
    uint32_t entry, word;
};

// The best candidates so far, best first; of equal ones that offered first. Never one of minus infinity or no number.
class Shortlist {
   public:
    explicit Shortlist(size_t capacity) : capacity_(capacity) {}

    void clear() {
        size_ = 0;
        threshold_ = -kInfinity;
    }
    void offer(const Candidate& candidate) {
        if (!(candidate.score > threshold_)) return;
        if (size_ < capacity_) ++size_;
        size_t at = size_ - 1;
        for (; at > 0 && candidate.score > best_[at - 1].score; --at) best_[at] = best_[at - 1];
        best_[at] = candidate;
        if (size_ == capacity_) threshold_ = best_[size_ - 1].score;
    }
    float threshold() const { return threshold_; }  // what a candidate has to exceed
    size_t size() const { return size_; }
    const Candidate& operator[](size_t i) const { return best_[i]; }

   private:
    size_t capacity_, size_ = 0;
    float threshold_ = -kInfinity;
    Candidate best_[kMaxBeam];
};

namespace on_scalar {
#define VQ_PATH
#include "search_kernel.hpp"
#undef VQ_PATH
}  // namespace on_scalar

#if VQ_X86 || VQ_NEON
namespace on_simd128 {
#define VQ_PATH VQ_TARGET_128
#include "search_kernel.hpp"
#undef VQ_PATH
}  // namespace on_simd128
#endif

#if VQ_X86
namespace on_avx2 {
#define VQ_PATH VQ_TARGET_AVX2
#include "search_kernel.hpp"
#undef VQ_PATH
}  // namespace on_avx2
#endif

struct SearchPath {
    decltype(&on_scalar::nearest_words) nearest_words;
    decltype(&on_scalar::extend_partial) extend_partial;
};

inline SearchPath search_path(Simd simd) {
#if VQ_X86
    if (simd >= Simd::avx2) return {&on_avx2::nearest_words, &on_avx2::extend_partial};
#endif
#if VQ_X86 || VQ_NEON
    if (simd != Simd::scalar) return {&on_simd128::nearest_words, &on_simd128::extend_partial};
#endif
    (void)simd;
    return {&on_scalar::nearest_words, &on_scalar::extend_partial};
}

// Books [K, R] as one book for each group, in blocks of eight words, [blocks][dims][8]; infinity fills the last block.
inline std::vector<float> blocked_books(const float* books, size_t words, const std::vector<size_t>& sizes,
                                        size_t width) {
    const size_t blocks = (words + 7) / 8;
    std::vector<float> blocked(blocks * 8 * width, kInfinity);
    size_t start = 0;
    for (size_t dims : sizes) {
        float* book = blocked.data() + blocks * 8 * start;
        for (size_t k = 0; k < words; ++k) {
            for (size_t d = 0; d < dims; ++d) { book[(k / 8 * dims + d) * 8 + k % 8] = books[k * width + start + d]; }
        }
        start += dims;
    }
    return blocked;
}

// codes[i, g] is the word nearest to row i in the sizes[g] columns of group g. The sizes sum to width.
template <class Code>
void nearest(const float* h, size_t rows, const float* books, size_t words, const std::vector<size_t>& sizes,
             size_t width, Code* codes, size_t threads) {
    const SearchPath path = search_path(simd_in_use());
    const std::vector<float> blocked = blocked_books(books, words, sizes, width);
    const size_t blocks = (words + 7) / 8, groups = sizes.size();
    for_row_ranges(rows, threads, [&](size_t begin, size_t end) {
        for (size_t first = begin; first < end; first += kTileRows) {
            const size_t last = std::min(end, first + kTileRows);
            size_t start = 0;
            for (size_t g = 0; g < groups; start += sizes[g++]) {
                for (size_t row = first; row < last; row += kTile) {
                    const float* tile[kTile];  // the last row again where there are no more
                    for (size_t r = 0; r < kTile; ++r) tile[r] = h + std::min(row + r, last - 1) * width + start;
                    uint32_t found[kTile];
                    path.nearest_words(tile, blocked.data() + blocks * 8 * start, blocks, sizes[g], found);
                    for (size_t r = 0; r < kTile && row + r < last; ++r) {
                        codes[(row + r) * groups + g] = static_cast<Code>(found[r]);
                    }
                }
            }
        }
    });
}

// What one thread needs to search rows, allocated once.
class BeamSearch {
   public:
    BeamSearch(SearchPath path, size_t books, size_t words, size_t beam)
        : path_(path),
          books_(books),
          words_(words),
          best_(beam),
          past_(books),
          codes_(beam * books),
          next_(beam * books) {}

    // Codes [found, M] of the best choices, best first; valid until the next call. dots [M, K], gram [M, M, K, K].
    const uint16_t* operator()(const float* dots, const float* gram, size_t* found) {
        size_t live = 1;
        scores_[0] = 0;
        for (size_t m = 0; m < books_; ++m) {
            best_.clear();
            for (size_t entry = 0; entry < live; ++entry) {
                for (size_t i = 0; i < m; ++i) {
                    past_[i] = gram + ((i * books_ + m) * words_ + codes_[entry * books_ + i]) * words_;
                }
                const Partial partial = {scores_[entry], static_cast<uint32_t>(entry), dots + m * words_, past_.data(),
                                         m};
                path_.extend_partial(partial, words_, &best_);
            }
            live = keep_best(m);
        }
        *found = live;
        return codes_.data();
    }

   private:
    // Makes the shortlist the beam. If it is empty the first entry goes on with word 0, and no hope.
    size_t keep_best(size_t m) {
        if (best_.size() == 0) {
            codes_[m] = 0;
            scores_[0] = -kInfinity;
            return 1;
        }
        for (size_t i = 0; i < best_.size(); ++i) {
            std::copy_n(codes_.begin() + static_cast<ptrdiff_t>(best_[i].entry * books_), m,
                        next_.begin() + static_cast<ptrdiff_t>(i * books_));
            next_[i * books_ + m] = static_cast<uint16_t>(best_[i].word);
            scores_[i] = best_[i].score;
        }
        std::swap(codes_, next_);
        return best_.size();
    }

    SearchPath path_;
    size_t books_, words_;
    Shortlist best_;
    std::vector<const float*> past_;
    std::vector<uint16_t> codes_, next_;  // [beam, M]
    float scores_[kMaxBeam];
};

// codes [rows, beam, M] of the best choices that a beam finds, best first, for dots [rows, M, K] and gram [M, M, K, K].
// Where fewer are possible the last of them fills up the row.
template <class Code>
void additive_search(const float* dots, size_t rows, const float* gram, size_t books, size_t words, size_t beam,
                     Code* codes, size_t threads) {
    const BeamSearch fresh(search_path(simd_in_use()), books, words, beam);
    std::vector<BeamSearch> searches(std::max<size_t>(1, std::min(threads, rows)), fresh);
    std::atomic<size_t> taken{0};
    for_row_ranges(rows, threads, [&](size_t begin, size_t end) {
        BeamSearch& search = searches[taken++];
        for (size_t row = begin; row < end; ++row) {
            size_t found = 0;
            const uint16_t* best = search(dots + row * books * words, gram, &found);
            Code* target = codes + row * beam * books;
            for (size_t entry = 0; entry < beam; ++entry) {
                const uint16_t* choice = best + std::min(entry, found - 1) * books;
                for (size_t m = 0; m < books; ++m) *target++ = static_cast<Code>(choice[m]);
            }
        }
    });
}

}  // namespace vqlabel
