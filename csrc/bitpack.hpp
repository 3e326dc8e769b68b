// Packed rows of codes: pack, unpack, and gather rows by index. No Python in here.
//
// A row is `count` codes of `nbits` bits, padded to a byte. Pre-conditions are the caller's to check, except what other
// threads could change behind its back: indices are checked as they are used.
#pragma once

#include "bitpack_avx2.hpp"
#include "threads.hpp"

namespace vqlabel {

// Outputs from this size on go past the caches, which could not keep them anyway.
constexpr size_t kStreamBytes = size_t{32} << 20;
constexpr size_t kPrefetchRows = 16;

// Unpacks runs of one width on one path. Reads nothing outside [src, end), writes dst[0, count) only.
template <class Code>
class Unpacker {
   public:
    Unpacker(int nbits, bool stream) : simd_(simd_in_use()), plan_(nbits), stream_(stream) {}

    void operator()(const uint8_t* src, const uint8_t* end, Code* dst, size_t count) const {
        if (simd_ >= Simd::avx2) {
            const size_t done = bulk(src, end, dst, count);
            src += done / 8 * static_cast<size_t>(plan_.nbits);
            dst += done;
            count -= done;
        }
        rest(src, end, dst, count);
    }

   private:
    size_t bulk(const uint8_t* src, const uint8_t* end, Code* dst, size_t count) const {
#if VQ_X86
        const size_t head = codes_to_alignment(dst);
        if (!stream_ || head > count) return unpack_bulk_avx2<false>(plan_, src, end, dst, count);
        rest(src, end, dst, head);
        src += head / 8 * static_cast<size_t>(plan_.nbits);
        const size_t done = unpack_bulk_avx2<true>(plan_, src, end, dst + head, count - head);
        _mm_sfence();
        return head + done;
#else
        (void)src, (void)end, (void)dst, (void)count;
        return 0;
#endif
    }

    void rest(const uint8_t* src, const uint8_t* end, Code* dst, size_t count) const {
#if VQ_X86 || VQ_NEON
        if constexpr (sizeof(Code) < 4) {
            if (simd_ != Simd::scalar) return unpack_run_128(plan_, src, end, dst, count);
        }
#endif
        unpack_run_scalar(src, end, dst, count, plan_.nbits);
    }

    // Codes before the first 32-byte boundary, which streaming stores need; SIZE_MAX if no whole group ends there.
    static size_t codes_to_alignment(const Code* dst) {
        const size_t bytes = (32 - reinterpret_cast<uintptr_t>(dst) % 32) % 32;
        return bytes % (8 * sizeof(Code)) == 0 ? bytes / sizeof(Code) : SIZE_MAX;
    }

    Simd simd_;
    UnpackPlan<Code> plan_;
    bool stream_;
};

// Packs runs of one width on one path. Returns the codes or-ed together; may write anything in [dst, end).
template <class Code>
class Packer {
   public:
    explicit Packer(int nbits) : simd_(simd_in_use()), plan_(nbits) {}

    uint32_t operator()(const Code* codes, size_t count, uint8_t* dst, uint8_t* end) const {
        uint32_t seen = 0;
#if VQ_X86
        if constexpr (sizeof(Code) < 4) {
            if (simd_ >= Simd::avx2) {
                const size_t done = pack_bulk_avx2(plan_, codes, count, dst, end, &seen);
                codes += done;
                count -= done;
                dst += done / 8 * static_cast<size_t>(plan_.nbits);
            }
        }
#endif
        return seen | rest(codes, count, dst, end);
    }

   private:
    uint32_t rest(const Code* codes, size_t count, uint8_t* dst, uint8_t* end) const {
#if VQ_X86 || VQ_NEON
        if constexpr (sizeof(Code) < 4) {
            if (simd_ != Simd::scalar) return pack_run_128(plan_, codes, count, dst, end);
        }
#endif
        (void)end;
        return pack_run_scalar(codes, count, dst, plan_.nbits);
    }

    Simd simd_;
    PackPlan plan_;
};

template <class Code>
void unpack(const uint8_t* packed, size_t rows, int nbits, size_t count, Code* codes, size_t threads) {
    const size_t row_bytes = packed_bytes(count, nbits);
    const bool gapless = row_bytes * 8 == count * static_cast<size_t>(nbits);
    const Unpacker<Code> unpack_run(nbits, gapless && rows * count * sizeof(Code) >= kStreamBytes);
    for_row_ranges(rows, threads, [=, &unpack_run](size_t begin, size_t end) {
        const uint8_t* packed_end = packed + rows * row_bytes;
        if (gapless) {
            return unpack_run(packed + begin * row_bytes, packed_end, codes + begin * count, (end - begin) * count);
        }
        for (size_t row = begin; row < end; ++row) {
            unpack_run(packed + row * row_bytes, packed_end, codes + row * count, count);
        }
    });
}

// Returns the position of the first index that names no row, or n if all do; then `codes` holds them all.
template <class Code>
size_t gather_unpack(const uint8_t* packed, size_t rows, size_t row_bytes, const int64_t* indices, size_t n, int nbits,
                     size_t count, Code* codes, size_t threads) {
    const uint8_t* end = packed + rows * row_bytes;
    const Unpacker<Code> unpack_run(nbits, false);
    std::atomic<size_t> first_bad{n};
    for_row_ranges(n, threads, [=, &unpack_run, &first_bad](size_t from, size_t to) {
        for (size_t i = from; i < to; ++i) {
            if (i + kPrefetchRows < to) prefetch(packed, static_cast<size_t>(indices[i + kPrefetchRows]) * row_bytes);
            const auto row = static_cast<uint64_t>(indices[i]);  // a negative index becomes a huge one
            if (row >= rows) {
                size_t seen = first_bad;
                while (i < seen && !first_bad.compare_exchange_weak(seen, i)) {}
                return;
            }
            unpack_run(packed + row * row_bytes, end, codes + i * count, count);
        }
    });
    return first_bad;
}

// Returns all codes or-ed together: a bit at or above nbits says that some code was out of range.
template <class Code>
uint32_t pack(const Code* codes, size_t rows, int nbits, size_t count, uint8_t* packed, size_t threads) {
    const size_t row_bytes = packed_bytes(count, nbits);
    const bool gapless = row_bytes * 8 == count * static_cast<size_t>(nbits);
    const Packer<Code> pack_run(nbits);
    std::atomic<uint32_t> seen{0};
    for_row_ranges(rows, threads, [=, &pack_run, &seen](size_t begin, size_t end) {
        uint8_t* part_end = packed + end * row_bytes;  // beyond it another thread writes
        uint32_t bits = 0;
        const size_t step = gapless ? end - begin : 1;
        for (size_t row = begin; row < end; row += step) {
            bits |= pack_run(codes + row * count, step * count, packed + row * row_bytes, part_end);
        }
        seen |= bits;
    });
    return seen;
}

}  // namespace vqlabel
