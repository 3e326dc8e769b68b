// Codebooks, and tables of what each codeword adds to the logits. No Python in here.
#pragma once

#include <cmath>
#include <utility>

#include "decode_layer.hpp"
#include "threads.hpp"

namespace vqlabel {

struct Books {
    size_t count, width;  // G, R
    int nbits;
    std::vector<float> words;   // residual: [G K, R]; product: [K, R]
    std::vector<size_t> owner;  // product: the book of each dimension; residual: empty

    size_t size() const { return size_t{1} << nbits; }  // K
    size_t entries() const { return count << nbits; }
    const float* word(size_t g, size_t code) const {
        return words.data() + (owner.empty() ? g * size() + code : code) * width;
    }
    // h [R]: the sum of the codewords.
    void latent(const uint16_t* codes, float* h) const {
        std::fill_n(h, width, 0.0f);
        if (owner.empty()) {
            for (size_t g = 0; g < count; ++g) {
                const float* from = word(g, codes[g]);
                for (size_t r = 0; r < width; ++r) h[r] += from[r];
            }
        } else {
            for (size_t r = 0; r < width; ++r) h[r] = words[codes[owner[r]] * width + r];
        }
    }
};

// What each codeword adds to the logits of a linear decoder, as words with a scale for each class: a row is a sum of G
// rows of words.
class LogitTables {
   public:
    static constexpr size_t kMaxBooks = 1024;

    LogitTables() = default;
    LogitTables(const Books& books, const Layer& output, size_t threads)
        : columns_(output.columns()), scale_(columns_), words_(books.entries() * columns_) {
        const std::vector<float> exact = exact_entries(books, output, threads);
        std::vector<float> inverse(columns_), most(columns_);
        for (size_t entry = 0; entry < books.entries(); ++entry) {
            for (size_t c = 0; c < columns_; ++c) {
                most[c] = std::max(most[c], std::fabs(exact[entry * columns_ + c]));
                const bool last = (entry + 1) % books.size() == 0;  // of its book
                if (last) scale_[c] += std::exchange(most[c], 0.0f);
            }
        }
        for (size_t c = 0; c < columns_; ++c) {
            // scale_ is the reach of a sum over all books so far; rounding adds up to 1/2 for each
            inverse[c] = scale_[c] < 1e-30f ? 0 : (kMostWord - static_cast<float>(kMaxBooks)) / scale_[c];
            scale_[c] = inverse[c] > 0 ? 1 / inverse[c] : 0;
        }
        for (size_t i = 0; i < words_.size(); ++i) {
            words_[i] = static_cast<int16_t>(std::nearbyint(exact[i] * inverse[i % columns_]));
        }
    }

    const float* scale() const { return scale_.data(); }
    const int16_t* entry(size_t number) const { return words_.data() + number * columns_; }

   private:
    // [G K, columns]
    std::vector<float> exact_entries(const Books& books, const Layer& output, size_t threads) const {
        std::vector<float> weight(books.width * columns_), exact(words_.size());
        for (size_t r = 0; r < books.width; ++r) {
            for (size_t c = 0; c < columns_; ++c) weight[r * columns_ + c] = output.weight(c, r);
        }
        for_row_ranges(books.entries(), threads, [&](size_t begin, size_t end) {
            for (size_t entry = begin; entry < end; ++entry) {
                const size_t g = entry >> books.nbits;
                const float* word = books.word(g, entry & (books.size() - 1));
                float* sums = exact.data() + entry * columns_;
                for (size_t r = 0; r < books.width; ++r) {
                    if (!books.owner.empty() && books.owner[r] != g) continue;
                    for (size_t c = 0; c < columns_; ++c) sums[c] += word[r] * weight[r * columns_ + c];
                }
            }
        });
        return exact;
    }

    size_t columns_ = 0;
    Lined<float> scale_;    // [columns]
    Lined<int16_t> words_;  // [G K, columns]
};

}  // namespace vqlabel
