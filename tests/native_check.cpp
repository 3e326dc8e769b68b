// The C++ alone, without Python: every width, the searches and decoding, on the best path of this processor against the
// scalar path.
// tests/test_portable.py builds it with each compiler that it finds, for other processors too.
#include <cstdio>
#include <random>
#include <vector>

#include "../csrc/bitpack.hpp"
#include "../csrc/decode.hpp"
#include "../csrc/search.hpp"

using namespace vqlabel;

template <class Code>
int differences(int nbits) {
    std::mt19937 random(static_cast<unsigned>(nbits));
    int found = 0;
    for (size_t count : std::initializer_list<size_t>{1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 64, 100}) {
        for (size_t rows : std::initializer_list<size_t>{1, 2, 5}) {
            const size_t row_bytes = packed_bytes(count, nbits);
            std::vector<Code> codes(rows * count), unpacked(rows * count), gathered(2 * count);
            std::vector<uint8_t> expected(rows * row_bytes), packed(rows * row_bytes);
            for (Code& code : codes) code = static_cast<Code>(random() & ((1u << nbits) - 1));
            simd_in_use() = Simd::scalar;
            pack(codes.data(), rows, nbits, count, expected.data(), 1);
            simd_in_use() = best_simd();
            const uint32_t seen = pack(codes.data(), rows, nbits, count, packed.data(), 2);
            unpack(packed.data(), rows, nbits, count, unpacked.data(), 2);
            const int64_t indices[2] = {static_cast<int64_t>(rows) - 1, 0};
            const size_t bad =
                gather_unpack(packed.data(), rows, row_bytes, indices, 2, nbits, count, gathered.data(), 1);
            const std::vector<Code> last(codes.end() - static_cast<ptrdiff_t>(count), codes.end());
            const std::vector<Code> got(gathered.begin(), gathered.begin() + static_cast<ptrdiff_t>(count));
            found += (packed != expected) + (seen >> nbits != 0) + (unpacked != codes) + (bad != 2) + (got != last);
        }
    }
    return found;
}

int search_differences(size_t words) {
    std::mt19937 random(static_cast<unsigned>(words));
    const auto floats = [&random](size_t count) {
        std::normal_distribution<float> normal;
        std::vector<float> values(count);
        for (float& value : values) value = normal(random);
        return values;
    };
    const size_t rows = 37, books = 4, beam = 8;
    const std::vector<size_t> sizes = {1, 3, 9};
    const std::vector<float> h = floats(rows * 13), table = floats(words * 13);
    const std::vector<float> dots = floats(rows * books * words), gram = floats(books * books * words * words);
    std::vector<uint16_t> found[2], chosen[2];
    for (size_t path = 0; path < 2; ++path) {
        simd_in_use() = path ? best_simd() : Simd::scalar;
        found[path].resize(rows * sizes.size());
        chosen[path].resize(rows * beam * books);
        nearest(h.data(), rows, table.data(), words, sizes, 13, found[path].data(), path + 1);
        additive_search(dots.data(), rows, gram.data(), books, words, beam, chosen[path].data(), path + 1);
    }
    return (found[0] != found[1]) + (chosen[0] != chosen[1]);
}

// Residual books of 3 bits; so few of them, without a hidden layer, that tables of logits serve, else the product.
int decode_differences(size_t classes, size_t units, size_t planes) {
    std::mt19937 random(static_cast<unsigned>(classes));
    const size_t rows = 37, G = 2, R = 13, K = 8, inputs = R + units;
    const auto floats = [&random](size_t count) {
        std::normal_distribution<float> normal;
        std::vector<float> values(count);
        for (float& value : values) value = normal(random);
        return values;
    };
    const auto bytes = [&random](size_t count) {
        std::vector<int8_t> values(count);
        for (int8_t& value : values) value = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
        return values;
    };
    const std::vector<int8_t> weight = bytes(planes * classes * inputs), hidden = bytes(planes * units * R);
    const std::vector<float> scale(planes * (classes + units), 0.01f), bias = floats(classes + units);
    const std::vector<float> h0 = floats(rows * R), spread(rows, 1.5f), words = floats(G * K * R);
    const Matrix output = {weight.data(), scale.data(), bias.data(), planes, classes, inputs};
    const Matrix inner = {hidden.data(), scale.data(), bias.data(), planes, units, R};
    std::vector<uint8_t> packed(rows * packed_bytes(G, 3));
    for (uint8_t& byte : packed) byte = static_cast<uint8_t>(random());
    std::vector<float> found[2];
    for (size_t path = 0; path < 2; ++path) {
        simd_in_use() = path ? best_simd() : Simd::scalar;
        Decoder decoder({G, R, 3, words, {}}, output, units ? &inner : nullptr, true);
        for (const float* guess : {static_cast<const float*>(nullptr), h0.data()}) {
            std::vector<float> labels(rows * classes);
            decoder({packed.data(), rows, guess, spread.data(), Output::probs, 2.0f, labels.data(), nullptr, path + 1});
            found[path].insert(found[path].end(), labels.begin(), labels.end());
        }
    }
    return found[0] != found[1];
}

int main() {
    int found = 0;
    for (int nbits = 1; nbits <= 8; ++nbits) found += differences<uint8_t>(nbits);
    for (int nbits = 9; nbits <= 16; ++nbits) found += differences<uint16_t>(nbits);
    for (int nbits = 17; nbits <= kMaxBits; ++nbits) found += differences<uint32_t>(nbits);
    for (size_t words : std::initializer_list<size_t>{1, 2, 7, 8, 9, 33, 100}) found += search_differences(words);
    for (size_t classes : std::initializer_list<size_t>{2, 7, 16, 33, 100}) {
        for (size_t units : std::initializer_list<size_t>{0, 5, 24}) {
            for (size_t planes : std::initializer_list<size_t>{1, 2}) {
                found += decode_differences(classes, units, planes);
            }
        }
    }
    std::printf("%s %d\n", simd_name(best_simd()), found);
    return found != 0;
}
