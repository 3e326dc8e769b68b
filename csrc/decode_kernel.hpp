// The inner loops of decode.hpp, which includes this once for each path, inside the namespace that holds its Floats.
// VQ_PATH is the target attribute of the path. Rows of floats are padded to 16.

// `to` = `from` + what one term makes of kRows rows in 16 columns. Its sums are of whole numbers, so they are exact.
template <size_t kRows>
VQ_PATH inline void product_tile(const Term& term, const ProductTile& tile) {
    Sums low[kRows], high[kRows];
    for (size_t r = 0; r < kRows; ++r) low[r] = high[r] = no_sums();
    const int16_t *weight = term.numbers.data() + tile.column * term.columns, *x = tile.x + term.at;
    VQ_UNROLL_2
    for (size_t i = 0; i < term.columns; i += 2) {
        const Words left = load_words(weight + 16 * i), right = load_words(weight + 16 * i + 16);
        for (size_t r = 0; r < kRows; ++r) {
            const Words pair = broadcast_pair(x + r * tile.x_stride + i);
            low[r] = add_products(low[r], pair, left);
            high[r] = add_products(high[r], pair, right);
        }
    }
    const Floats left = load(term.scale.data() + tile.column), right = load(term.scale.data() + tile.column + 8);
    for (size_t r = 0; r < kRows; ++r) {
        const Floats scale = broadcast(tile.x_scale[r]);
        const float* from = tile.from + r * tile.from_stride;
        float* to = tile.to + r * tile.to_stride;
        store(to, add(load(from), multiply(to_floats(low[r]), multiply(left, scale))));
        store(to + 8, add(load(from + 8), multiply(to_floats(high[r]), multiply(right, scale))));
    }
}

// kRows rows in 16 columns: the bias and all terms.
template <size_t kRows>
VQ_PATH inline void product_rows(const Term* terms, size_t count, const ProductRows& rows, size_t row, size_t column) {
    float* to = rows.to + row * rows.to_stride + column;
    const int16_t* x = rows.x + row * rows.x_stride;
    ProductTile tile = {column, x, rows.x_stride, nullptr, rows.bias + column, 0, to, rows.to_stride};
    for (size_t i = 0; i < count; ++i) {
        tile.x_scale = rows.x_scale + terms[i].segment * rows.count + row;
        product_tile<kRows>(terms[i], tile);
        tile.from = to;
        tile.from_stride = rows.to_stride;
    }
}

// 16 columns at a time, whose weights stay in the nearest cache while all rows pass.
VQ_PATH inline void product(const Term* terms, size_t count, const ProductRows& rows) {
    for (size_t column = 0; column < rows.columns; column += 16) {
        size_t row = 0;
        for (; row + kProductRows <= rows.count; row += kProductRows) {
            product_rows<kProductRows>(terms, count, rows, row, column);
        }
        for (; row < rows.count; ++row) product_rows<1>(terms, count, rows, row, column);
    }
}

// The sums of one entry of each table in 16 * kWords columns; the entries of the next row are asked for on the way.
template <size_t kWords>
VQ_PATH inline void table_columns(const TableRow& row, size_t column) {
    Words sum[kWords];
    for (size_t w = 0; w < kWords; ++w) sum[w] = load_words(row.entries[0] + column + 16 * w);
    for (size_t g = 1; g < row.books; ++g) {
        for (size_t w = 0; w < kWords; ++w) sum[w] = add(sum[w], load_words(row.entries[g] + column + 16 * w));
    }
    for (size_t g = 0; g < row.books; ++g) {
        for (size_t w = 0; w < kWords; w += 2) prefetch(row.next[g] + column + 16 * w);
    }
    const Floats spread = broadcast(row.spread);
    for (size_t w = 0; w < kWords; ++w, column += 16) {
        Floats low, high;
        to_floats(sum[w], &low, &high);
        const Floats left = multiply(load(row.scale + column), spread);
        const Floats right = multiply(load(row.scale + column + 8), spread);
        store(row.to + column, add(load(row.bias + column), multiply(low, left)));
        store(row.to + column + 8, add(load(row.bias + column + 8), multiply(high, right)));
    }
}

VQ_PATH inline void table_row(const TableRow& row, size_t columns) {
    size_t column = 0;
    for (; column + 128 <= columns; column += 128) table_columns<8>(row, column);
    for (; column < columns; column += 16) table_columns<1>(row, column);
}

// 2^y for y up to 0, within 3e-7 of it; 0 below -126. Exactly 1 at 0.
VQ_PATH inline Floats power(Floats y) {
    const Floats whole = add(y, broadcast(kMagic));
    const Floats f = subtract(y, subtract(whole, broadcast(kMagic)));  // -1/2 to 1/2
    const Floats f2 = multiply(f, f);
    const Floats c45 = add(broadcast(0.009671513f), multiply(broadcast(0.0013264727f), f));
    const Floats c23 = add(broadcast(0.24022242f), multiply(broadcast(0.055507336f), f));
    const Floats c01 = add(broadcast(1), multiply(broadcast(0.693147f), f));
    const Floats sum = add(c01, multiply(f2, add(c23, multiply(f2, c45))));
    return zero_if_less(y, broadcast(-126), multiply(sum, power_of_two(whole)));
}

// x (1 + erf(x / sqrt 2)) / 2, within 2e-7 (1 + |x|) of it: for x > 0 it is x, else 0, less |x| times the normal tail
// beyond |x|, which is e^(-x^2 / 2) times a polynomial in 1 / (1 + 0.4 |x|).
VQ_PATH inline void gelu_row(float* x, size_t columns) {
    static constexpr float kTail[] = {0.057014298f, -0.25696349f, 0.34294271f, 0.010917779f, 0.18948965f, 0.15659924f};
    for (size_t i = 0; i < columns; i += 8) {
        const Floats v = load(x + i), size = maximum(v, subtract(broadcast(0), v));
        const Floats t = divide(broadcast(1), add(broadcast(1), multiply(broadcast(0.4f), size)));
        Floats tail = broadcast(0);
        for (const float c : kTail) tail = multiply(add(tail, broadcast(c)), t);
        tail = multiply(tail, power(multiply(multiply(size, size), broadcast(-0.72134752f))));
        store(x + i, subtract(maximum(v, broadcast(0)), multiply(size, tail)));
    }
}

VQ_PATH inline float row_maximum(const float* x, size_t columns) {
    Floats low = load(x), high = load(x + 8);
    for (size_t i = 16; i < columns; i += 16) {
        low = maximum(low, load(x + i));
        high = maximum(high, load(x + i + 8));
    }
    float lanes[8];
    store(lanes, maximum(low, high));
    return *std::max_element(lanes, lanes + 8);
}

// to = 2^((x - offset) * factor); returns their sum. `to` may be x.
VQ_PATH inline float power_row(const Affine& by, const float* x, size_t columns, float* to) {
    const Floats offset = broadcast(by.offset), factor = broadcast(by.factor);
    Floats low = broadcast(0), high = broadcast(0);
    for (size_t i = 0; i < columns; i += 16) {
        const Floats left = power(multiply(subtract(load(x + i), offset), factor));
        const Floats right = power(multiply(subtract(load(x + i + 8), offset), factor));
        low = add(low, left);
        high = add(high, right);
        store(to + i, left);
        store(to + i + 8, right);
    }
    float lanes[8], sum = 0;
    store(lanes, add(low, high));
    for (const float lane : lanes) sum += lane;
    return sum;
}

// to = (x - offset) * factor - shift, in any number of columns. `to` may be x.
VQ_PATH inline void write_row(const float* x, size_t columns, const Affine& by, float* to) {
    const Floats offset = broadcast(by.offset), factor = broadcast(by.factor), shift = broadcast(by.shift);
    size_t i = 0;
    for (; i + 8 <= columns; i += 8) {
        store(to + i, subtract(multiply(subtract(load(x + i), offset), factor), shift));
    }
    for (; i < columns; ++i) to[i] = (x[i] - by.offset) * by.factor - by.shift;
}
