// Rows of codes to labels, a few at a time. No Python in here.
#pragma once

#include <atomic>
#include <memory>

#include "bitpack.hpp"
#include "decode_tables.hpp"

namespace vqlabel {

constexpr size_t kBlockFloats = size_t{1} << 16;  // logits at work: they stay in the second cache
constexpr size_t kBlockRows = 16;

// How many rows of so many columns are at work in a thread: whole tiles of the product.
inline size_t rows_at_work(size_t columns) {
    return std::min(kBlockRows, std::max<size_t>(1, kBlockFloats / columns / kInterleaved) * kInterleaved);
}

// Everything that rows are decoded with.
struct DecodeModel {
    Books books;
    size_t classes;
    std::unique_ptr<Layer> inner;  // null without a hidden layer
    Layer output;                  // of h and the hidden layer
    bool linear;                   // whether it sees h
    LogitTables tables;
};

enum class Output { probs, log_probs, logits };

struct DecodeCall {
    const uint8_t* packed;  // [count, row_bytes]
    size_t count;
    const float *h0, *spread;  // [count, R], [count]; null: 0 and 1
    Output output;
    float temperature;
    float* floats;     // [count, C], or null and
    uint16_t* halves;  // [count, C]
    size_t threads;
};

// Rows at work in one thread.
class DecodeBlock {
   public:
    DecodeBlock(const DecodeModel& model, size_t most, bool tabled)
        : model_(&model),
          path_(decode_path(simd_in_use())),
          columns_(model.output.columns()),
          rows_(std::min(std::max<size_t>(1, most), rows_at_work(columns_))),
          unpack_(model.books.nbits, false),
          codes_(rows_ * model.books.count),
          entries_(2 * model.books.count),
          x_stride_(model.books.width + (model.inner ? model.inner->columns() : 0)),
          x_(rows_ * x_stride_),
          inner_room_(model.inner ? model.inner->room(rows_) : WordRows()),
          room_(model.output.room(rows_)),
          logits_((tabled ? 1 : rows_) * columns_),
          powers_(columns_) {}

    size_t rows() const { return rows_; }

    // Goes to these rows, and unpacks them.
    void take(const DecodeCall& call, size_t row, size_t count) {
        first_ = row;
        count_ = count;
        const size_t G = model_->books.count, row_bytes = packed_bytes(G, model_->books.nbits);
        for (size_t i = 0; i < count; ++i) {
            unpack_(call.packed + (row + i) * row_bytes, call.packed + call.count * row_bytes, codes_.data() + i * G,
                    G);
        }
    }

    // One row after the other, so that its logits stay in the nearest cache.
    void from_tables(const DecodeCall& call, std::atomic<size_t>* first_bad) {
        const size_t G = model_->books.count;
        const int16_t **now = entries_.data(), **next = now + G;
        find_entries(0, next);
        for (size_t i = 0; i < count_; ++i) {
            std::swap(now, next);
            find_entries(std::min(i + 1, count_ - 1), next);
            path_.table_row(
                {now, next, G, model_->output.bias(), model_->tables.scale(), spread_of(call, i), logits_.data()},
                columns_);
            finish(call, first_ + i, logits_.data(), first_bad);
        }
    }

    void from_latents(const DecodeCall& call, std::atomic<size_t>* first_bad) {
        const DecodeModel& model = *model_;
        const size_t R = model.books.width;
        for (size_t i = 0; i < count_; ++i) {
            float* h = x_.data() + i * x_stride_;
            model.books.latent(codes_.data() + i * model.books.count, h);
            const float spread = spread_of(call, i);
            const float* h0 = call.h0 ? call.h0 + (first_ + i) * R : nullptr;
            for (size_t r = 0; r < R; ++r) h[r] = (h0 ? h0[r] : 0) + spread * h[r];
        }
        if (model.inner) {
            float* hidden = x_.data() + R;
            (*model.inner)(path_, x_.data(), x_stride_, count_, &inner_room_, hidden, x_stride_);
            for (size_t i = 0; i < count_; ++i) path_.gelu_row(hidden + i * x_stride_, model.inner->columns());
        }
        const float* x = x_.data() + (model.linear ? 0 : R);
        model.output(path_, x, x_stride_, count_, &room_, logits_.data(), columns_);
        for (size_t i = 0; i < count_; ++i) finish(call, first_ + i, logits_.data() + i * columns_, first_bad);
    }

   private:
    // Where it is no number, one whose low bits are 0: exp needs that.
    float spread_of(const DecodeCall& call, size_t i) const {
        const float spread = call.spread ? call.spread[first_ + i] : 1;
        return std::isnan(spread) ? std::numeric_limits<float>::quiet_NaN() : spread;
    }

    void find_entries(size_t i, const int16_t** entries) const {
        const Books& books = model_->books;
        const uint16_t* codes = codes_.data() + i * books.count;
        for (size_t g = 0; g < books.count; ++g) entries[g] = model_->tables.entry((g << books.nbits) + codes[g]);
    }

    // Logits x of a row to what was asked for. Lowers *first_bad to the first row that half precision cannot hold.
    void finish(const DecodeCall& call, size_t row, float* x, std::atomic<size_t>* first_bad) {
        const size_t classes = model_->classes, at = row * classes;
        normalise(call, x, call.floats ? call.floats + at : x);
        if (call.floats || to_halves(path_.simd, x, classes, call.halves + at)) return;
        size_t seen = *first_bad;
        while (row < seen && !first_bad->compare_exchange_weak(seen, row)) {}
    }

    // `to` may be x.
    void normalise(const DecodeCall& call, const float* x, float* to) {
        const size_t classes = model_->classes;
        if (call.output == Output::logits) return path_.write_row(x, classes, {0, 1, 0}, to);
        const bool logs = call.output == Output::log_probs;
        const float top = path_.row_maximum(x, columns_), inverse = 1 / call.temperature;
        const float sum = path_.power_row({top, inverse * 1.44269504f, 0}, x, classes, logs ? powers_.data() : to);
        if (!logs) return path_.write_row(to, classes, {0, 1 / sum, 0}, to);
        // in double: of one rounding, so not at the mercy of the library
        const auto shift = static_cast<float>(std::log(static_cast<double>(sum)));
        path_.write_row(x, classes, {top, inverse, shift}, to);
    }

    const DecodeModel* model_;
    DecodePath path_;
    size_t columns_, rows_, first_ = 0, count_ = 0;
    Unpacker<uint16_t> unpack_;
    std::vector<uint16_t> codes_;
    std::vector<const int16_t*> entries_;
    size_t x_stride_;
    std::vector<float> x_;  // h, then the hidden layer
    WordRows inner_room_, room_;
    Lined<float> logits_, powers_;
};

}  // namespace vqlabel
