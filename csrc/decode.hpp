// Packed rows of codes to labels: h = h0 + spread * (sum of codewords), logits = W [h; gelu(V h + c)] + b, and their
// softmax while a row is in cache. No Python in here.
//
// A row comes out as the same bits in any batch, with any threads and on every path. Pre-conditions are the caller's to
// check; a code of nbits bits cannot be out of range.
#pragma once

#include <mutex>

#include "decode_block.hpp"

namespace vqlabel {

constexpr size_t kTableBytes = size_t{8} << 20;  // larger tables come from memory
constexpr size_t kTableColumns = 6;              // a table takes as long as so many columns of a product

class Decoder {
   public:
    // inner is null without a hidden layer; linear says whether the output layer sees h, before the hidden layer.
    Decoder(Books books, const Matrix& output, const Matrix* inner, bool linear)
        : model_(make_model(std::move(books), output, inner, linear)) {}

    const Books& books() const { return model_.books; }
    size_t classes() const { return model_.classes; }

    // Which way rows go. Tables serve linear decoders of few books and without a guess h0: with one, the product that
    // it needs does all the rest too.
    bool takes_tables(bool has_h0) const {
        const size_t bytes = books().entries() * model_.output.columns() * sizeof(int16_t);
        const bool faster = books().count * kTableColumns <= books().width && bytes <= kTableBytes;
        const bool able = books().count > 0 && books().count <= LogitTables::kMaxBooks && !model_.inner;
        return faster && able && !has_h0;
    }

    // Returns the first row that half precision cannot hold, or their count.
    size_t operator()(const DecodeCall& call) {
        const bool tabled = takes_tables(call.h0 != nullptr);
        if (tabled) std::call_once(built_, [&] { model_.tables = {books(), model_.output, call.threads}; });
        std::vector<DecodeBlock> blocks;
        const size_t threads = std::max<size_t>(1, std::min(call.threads, call.count));
        blocks.reserve(threads);
        while (blocks.size() < threads) blocks.emplace_back(model_, call.count, tabled);
        std::atomic<size_t> taken{0}, first_bad{call.count};
        for_row_ranges(call.count, call.threads, [&](size_t begin, size_t end) {
            DecodeBlock& block = blocks[taken++];
            for (size_t row = begin; row < end; row += block.rows()) {
                block.take(call, row, std::min(block.rows(), end - row));
                tabled ? block.from_tables(call, &first_bad) : block.from_latents(call, &first_bad);
            }
        });
        return first_bad;
    }

   private:
    static DecodeModel make_model(Books books, const Matrix& output, const Matrix* inner, bool linear) {
        auto inner_layer = inner ? std::make_unique<Layer>(*inner, 0.0f) : nullptr;
        const Layer output_layer(output, -std::numeric_limits<float>::infinity());
        return {std::move(books), output.outputs, std::move(inner_layer), output_layer, linear, {}};
    }

    DecodeModel model_;
    std::once_flag built_;
};

}  // namespace vqlabel
