// The inner loops of decode.hpp, which includes this once for each path, inside the namespace that holds its Floats.
// VQ_PATH is the target attribute of the path. Rows of floats are padded to 32 columns, which are kAbreast Floats.

// One segment of a row as words, interleaved with those of other rows; returns their scale. One that holds an infinity
// or no number has no number for scale.
VQ_PATH inline float to_words(const float* x, size_t count, int16_t* words) {
    float room[kMaxSegment], lanes[kLanes], spoiled[kLanes];
    const size_t columns = padded(count, kLanes);
    std::copy_n(x, count, room);
    std::fill(room + count, room + columns, 0.0f);
    Floats most = broadcast(0), nothing = broadcast(0);
    for (size_t i = 0; i < columns; i += kLanes) {
        const Floats v = load(room + i);
        most = maximum(maximum(v, subtract(broadcast(0), v)), most);
        nothing = add(nothing, multiply(v, broadcast(0)));  // no number if v is infinite or none
    }
    store(lanes, most);
    store(spoiled, nothing);
    const float largest = tree_maximum<kLanes>(lanes);
    const bool tiny = largest < 1e-30f;  // its inverse may be infinite
    const Floats inverse = broadcast(tiny ? 0 : kMostWord / largest);
    for (size_t i = 0; i < columns; i += kLanes) {
        store(lanes, add(multiply(load(room + i), inverse), broadcast(kMagic)));
        for (size_t k = 0; k < kLanes; k += 2) {
            uint64_t bits;  // the low 16 of each are a word
            std::memcpy(&bits, lanes + k, 8);
            const auto pair = static_cast<uint32_t>((bits & 0xFFFF) | (bits >> 16 & 0xFFFF0000));
            std::memcpy(words + (i + k) * kInterleaved, &pair, 4);
        }
    }
    if (tree_sum<kLanes>(spoiled) != 0) return std::numeric_limits<float>::quiet_NaN();
    return tiny ? 0 : largest / kMostWord;
}

// `to` = `from` + what one term makes of kRows rows in a tile of columns. Its sums are of whole numbers, so exact.
template <size_t kRows>
VQ_PATH inline void product_tile(const Term& term, const ProductTile& tile) {
    Sums sum[kRows][kVectors];
    VQ_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r) {
        for (size_t v = 0; v < kVectors; ++v) sum[r][v] = no_sums();
    }
    const int16_t *weight = term.numbers.data() + tile.column * term.columns, *x = tile.x + term.at * kInterleaved;
    VQ_UNROLL(2)
    for (size_t i = 0; i < term.columns; i += 2) {
        Words weights[kVectors];
        for (size_t v = 0; v < kVectors; ++v) {
            const size_t block = v * kLanes / 16 * 16, lane = v * kLanes % 16;
            weights[v] = load_words(weight + block * term.columns + 16 * i + 2 * lane);
        }
        for (size_t r = 0; r < kRows; ++r) {
            const Words pair = broadcast_pair(x + kInterleaved * i + 2 * r);
            for (size_t v = 0; v < kVectors; ++v) sum[r][v] = add_products(sum[r][v], pair, weights[v]);
        }
    }
    const size_t from_stride = tile.from_stride, to_stride = tile.to_stride;
    const float *scale = term.scale.data() + tile.column, *from = tile.from;
    float* to = tile.to;
    VQ_UNROLL(16)
    for (size_t r = 0; r < kRows; ++r, from += from_stride, to += to_stride) {
        const Floats x_scale = broadcast(tile.x_scale[r]);
        for (size_t v = 0; v < kVectors; ++v) {
            const Floats by = multiply(load(scale + v * kLanes), x_scale);
            store(to + v * kLanes, add(load(from + v * kLanes), multiply(to_floats(sum[r][v]), by)));
        }
    }
}

// kRows rows in a tile of columns: the bias and all terms.
template <size_t kRows>
VQ_PATH inline void product_rows(const Term* terms, size_t count, const ProductRows& rows, size_t row, size_t column) {
    float* to = rows.to + row * rows.to_stride + column;
    const int16_t* x = rows.x + row / kInterleaved * kInterleaved * rows.x_stride + row % kInterleaved * 2;
    ProductTile tile = {column, x, nullptr, rows.bias + column, 0, to, rows.to_stride};
    for (size_t i = 0; i < count; ++i) {
        tile.x_scale = rows.x_scale + terms[i].segment * rows.count + row;
        product_tile<kRows>(terms[i], tile);
        tile.from = to;
        tile.from_stride = rows.to_stride;
    }
}

// A tile of columns at a time, whose weights stay in the nearest cache while all rows pass.
VQ_PATH inline void product(const Term* terms, size_t count, const ProductRows& rows) {
    for (size_t column = 0; column < rows.columns; column += kVectors * kLanes) {
        size_t row = 0;
        for (; row + kProductRows <= rows.count; row += kProductRows) {
            product_rows<kProductRows>(terms, count, rows, row, column);
        }
        for (; row < rows.count; ++row) product_rows<1>(terms, count, rows, row, column);
    }
}

// The sums of one entry of each table in kWords Words; the entries of the next row are asked for on the way.
template <size_t kWords>
VQ_PATH inline void table_columns(const TableRow& row, size_t column) {
    constexpr size_t kWide = 2 * kLanes;
    Words sum[kWords];
    for (size_t w = 0; w < kWords; ++w) sum[w] = load_words(row.entries[0] + column + kWide * w);
    for (size_t g = 1; g < row.books; ++g) {
        for (size_t w = 0; w < kWords; ++w) sum[w] = add(sum[w], load_words(row.entries[g] + column + kWide * w));
    }
    for (size_t g = 0; g < row.books; ++g) {
        for (size_t w = 0; w < kWords * kWide; w += 32) prefetch(row.next[g] + column + w);
    }
    const Floats spread = broadcast(row.spread);
    const float *scale = row.scale + column, *bias = row.bias + column;
    float* to = row.to + column;
    for (size_t w = 0; w < kWords; ++w) {
        Floats low, high;
        to_floats(sum[w], &low, &high);
        const size_t at = kWide * w;
        store(to + at, add(load(bias + at), multiply(low, multiply(load(scale + at), spread))));
        const size_t then = at + kLanes;
        store(to + then, add(load(bias + then), multiply(high, multiply(load(scale + then), spread))));
    }
}

VQ_PATH inline void table_row(const TableRow& row, size_t columns) {
    size_t column = 0;
    for (; column + 128 <= columns; column += 128) table_columns<64 / kLanes>(row, column);
    for (; column < columns; column += 32) table_columns<16 / kLanes>(row, column);
}

// 2^y for each y up to 0, within 3e-7 of it; 0 below -125.5. Exactly 1 at 0. All take each step together, so that none
// waits for another.
template <size_t kCount>
VQ_PATH inline void power(Floats (&y)[kCount]) {
    Floats whole[kCount], f[kCount], square[kCount], low[kCount], high[kCount];
    for (size_t i = 0; i < kCount; ++i) whole[i] = add(y[i], broadcast(kMagic));
    for (size_t i = 0; i < kCount; ++i) f[i] = subtract(y[i], subtract(whole[i], broadcast(kMagic)));  // -1/2 to 1/2
    for (size_t i = 0; i < kCount; ++i) square[i] = multiply(f[i], f[i]);
    for (size_t i = 0; i < kCount; ++i)
        high[i] = add(broadcast(0.009671513f), multiply(broadcast(0.0013264727f), f[i]));
    for (size_t i = 0; i < kCount; ++i) low[i] = add(broadcast(0.24022242f), multiply(broadcast(0.055507336f), f[i]));
    for (size_t i = 0; i < kCount; ++i) high[i] = add(low[i], multiply(square[i], high[i]));
    for (size_t i = 0; i < kCount; ++i) low[i] = add(broadcast(1), multiply(broadcast(0.693147f), f[i]));
    for (size_t i = 0; i < kCount; ++i) high[i] = add(low[i], multiply(square[i], high[i]));
    for (size_t i = 0; i < kCount; ++i) y[i] = scaled_unless_less(high[i], whole[i], y[i], broadcast(-125.5f));
}

// x (1 + erf(x / sqrt 2)) / 2, within 2e-7 (1 + |x|) of it: for x > 0 it is x, else 0, less |x| times the normal tail
// beyond |x|, which is e^(-x^2 / 2) times a polynomial in 1 / (1 + 0.4 |x|).
VQ_PATH inline void gelu_row(float* x, size_t columns) {
    static constexpr float kTail[] = {0.057014298f, -0.25696349f, 0.34294271f, 0.010917779f, 0.18948965f, 0.15659924f};
    for (size_t i = 0; i < columns; i += kLanes) {
        const Floats v = load(x + i), size = maximum(v, subtract(broadcast(0), v));
        const Floats t = divide(broadcast(1), add(broadcast(1), multiply(broadcast(0.4f), size)));
        Floats tail = broadcast(0);
        for (const float c : kTail) tail = multiply(add(tail, broadcast(c)), t);
        Floats normal[1] = {multiply(multiply(size, size), broadcast(-0.72134752f))};
        power(normal);
        tail = multiply(tail, normal[0]);
        store(x + i, subtract(maximum(v, broadcast(0)), multiply(size, tail)));
    }
}

VQ_PATH inline float row_maximum(const float* x, size_t columns) {
    Floats top[kAbreast];
    for (Floats& v : top) v = load(x);
    for (size_t i = 0; i < columns; i += 32) {
        for (size_t v = 0; v < kAbreast; ++v) top[v] = maximum(top[v], load(x + i + v * kLanes));
    }
    for (size_t v = 1; v < kAbreast; ++v) top[0] = maximum(top[0], top[v]);
    float lanes[kLanes];
    store(lanes, top[0]);
    return tree_maximum<kLanes>(lanes);
}

// to = 2^((x - offset) * factor), in any number of columns; returns their sum. `to` may be x.
VQ_PATH inline float power_row(const Affine& by, const float* x, size_t columns, float* to) {
    const Floats offset = broadcast(by.offset), factor = broadcast(by.factor);
    float lanes[32];
    Floats sum[kAbreast];
    for (Floats& v : sum) v = broadcast(0);
    for (size_t i = 0; i < columns; i += 32) {
        Floats y[kAbreast];
        for (size_t v = 0; v < kAbreast; ++v) y[v] = multiply(subtract(load(x + i + v * kLanes), offset), factor);
        power(y);
        const bool whole = i + 32 <= columns;
        for (size_t v = 0; v < kAbreast; ++v) {
            sum[v] = add(sum[v], y[v]);
            store((whole ? to + i : lanes) + v * kLanes, y[v]);
        }
        if (!whole) std::copy_n(lanes, columns - i, to + i);
    }
    for (size_t v = 0; v < kAbreast; ++v) store(lanes + v * kLanes, sum[v]);
    return tree_sum<32>(lanes);
}

VQ_PATH inline Floats transformed(const float* x, const Affine& by) {
    const Floats v = multiply(subtract(load(x), broadcast(by.offset)), broadcast(by.factor));
    return subtract(v, broadcast(by.shift));
}

// to = (x - offset) * factor - shift, in any number of columns. `to` may be x.
VQ_PATH inline void write_row(const float* x, size_t columns, const Affine& by, float* to) {
    size_t i = 0;
    for (; i + kLanes <= columns; i += kLanes) store(to + i, transformed(x + i, by));
    if (i == columns) return;
    float lanes[kLanes] = {};
    std::copy_n(x + i, columns - i, lanes);
    store(lanes, transformed(lanes, by));
    std::copy_n(lanes, columns - i, to + i);
}
