// Arrays that begin where a line of the cache does, so that no load of a vector needs two lines. No Python in here.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

namespace vqlabel {

template <class T>
struct LineAllocator {
    static constexpr std::align_val_t kLine{64};
    using value_type = T;

    LineAllocator() = default;
    template <class U>
    LineAllocator(const LineAllocator<U>&) {}

    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), kLine)); }
    void deallocate(T* p, size_t) { ::operator delete(p, kLine); }
    template <class U>
    bool operator==(const LineAllocator<U>&) const {
        return true;
    }
    template <class U>
    bool operator!=(const LineAllocator<U>&) const {
        return false;
    }
};

template <class T>
using Lined = std::vector<T, LineAllocator<T>>;

}  // namespace vqlabel
