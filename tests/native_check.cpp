// The C++ alone, without Python: every width, and the searches, on the best path of this processor against the scalar
// path.
// tests/test_portable.py builds it with each compiler that it finds, for other processors too.
#include <cstdio>
#include <random>
#include <vector>

#include "../csrc/bitpack.hpp"
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
    const size_t rows = 37, books = 4;
    const std::vector<size_t> sizes = {1, 3, 9};
    const std::vector<float> h = floats(rows * 13), table = floats(words * 13);
    const std::vector<float> dots = floats(rows * books * words), gram = floats(books * books * words * words);
    std::vector<uint16_t> found[2], chosen[2];
    for (size_t path = 0; path < 2; ++path) {
        simd_in_use() = path ? best_simd() : Simd::scalar;
        found[path].resize(rows * sizes.size());
        chosen[path].resize(rows * books);
        nearest(h.data(), rows, table.data(), words, sizes, 13, found[path].data(), path + 1);
        additive_search(dots.data(), rows, gram.data(), books, words, 8, chosen[path].data(), path + 1);
    }
    return (found[0] != found[1]) + (chosen[0] != chosen[1]);
}

int main() {
    int found = 0;
    for (int nbits = 1; nbits <= 8; ++nbits) found += differences<uint8_t>(nbits);
    for (int nbits = 9; nbits <= 16; ++nbits) found += differences<uint16_t>(nbits);
    for (int nbits = 17; nbits <= kMaxBits; ++nbits) found += differences<uint32_t>(nbits);
    for (size_t words : std::initializer_list<size_t>{1, 2, 7, 8, 9, 33, 100}) found += search_differences(words);
    std::printf("%s %d\n", simd_name(best_simd()), found);
    return found != 0;
}
