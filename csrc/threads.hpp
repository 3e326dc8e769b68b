// Rows split over threads.
#pragma once

#include <algorithm>
#include <cstddef>
#include <system_error>
#include <thread>
#include <vector>

namespace vqlabel {

constexpr size_t kMaxThreads = 256;

// Splits [0, rows) over threads; work(begin, end) runs on each part. Where no thread is to be had, the caller does it.
template <class Work>
void for_row_ranges(size_t rows, size_t threads, const Work& work) {
    threads = std::max<size_t>(1, std::min(threads, rows));
    std::vector<std::thread> others;
    others.reserve(threads - 1);
    size_t begin = 0;
    for (size_t t = 1; t < threads; ++t) {
        const size_t end = rows / threads * t;
        try {
            others.emplace_back(work, begin, end);
        } catch (const std::system_error&) { break; }
        begin = end;
    }
    work(begin, rows);
    for (std::thread& other : others) other.join();
}

}  // namespace vqlabel
