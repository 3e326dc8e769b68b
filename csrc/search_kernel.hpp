// The inner loops of search.hpp, which includes this once for each path, inside the namespace that holds its Floats.
// VQ_PATH is the target attribute of the path.

// The nearest words of kTile rows. h[r] points at the columns of the group; the book lies in blocks of eight words,
// [blocks][dims][8]. Distances of infinity and those that are not numbers are never the nearest; word 0 if all are.
VQ_PATH inline void nearest_words(const float* const* h, const float* book, size_t blocks, size_t dims,
                                  uint32_t* words) {
    static constexpr float kFirst[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    Floats number = load(kFirst);  // of the words in the lanes, exact below 2^24
    Floats least[kTile], nearest[kTile];
    for (size_t r = 0; r < kTile; ++r) {
        least[r] = broadcast(kInfinity);
        nearest[r] = broadcast(0);
    }
    for (size_t block = 0; block < blocks; ++block, book += 8 * dims) {
        Floats sum[kTile];
        for (size_t r = 0; r < kTile; ++r) sum[r] = broadcast(0);
        for (size_t d = 0; d < dims; ++d) {
            const Floats word = load(book + 8 * d);
            for (size_t r = 0; r < kTile; ++r) {
                const Floats gap = subtract(broadcast(h[r][d]), word);
                sum[r] = add(sum[r], multiply(gap, gap));
            }
        }
        for (size_t r = 0; r < kTile; ++r) keep_less(sum[r], number, &least[r], &nearest[r]);
        number = add(number, broadcast(8));
    }
    for (size_t r = 0; r < kTile; ++r) {
        float distances[8], numbers[8];
        store(distances, least[r]);
        store(numbers, nearest[r]);
        int best = 0;
        for (int i = 1; i < 8; ++i) {
            const bool tie = distances[i] == distances[best];
            if (tie ? numbers[i] < numbers[best] : distances[i] < distances[best]) best = i;
        }
        words[r] = static_cast<uint32_t>(numbers[best]);
    }
}

// Offers the words [k, k + 8 * kBlocks), as extend_partial does.
template <size_t kBlocks>
VQ_PATH inline void offer_words(const Partial& partial, size_t k, Shortlist* list) {
    Floats total[kBlocks];
    for (size_t b = 0; b < kBlocks; ++b) total[b] = add(broadcast(partial.score), load(partial.dots + k + 8 * b));
    for (size_t i = 0; i < partial.past; ++i) {
        for (size_t b = 0; b < kBlocks; ++b) total[b] = subtract(total[b], load(partial.gram[i] + k + 8 * b));
    }
    const Floats threshold = broadcast(list->threshold());
    for (size_t b = 0; b < kBlocks; ++b) {
        const unsigned above = greater(total[b], threshold);
        if (!above) continue;
        float scores[8];
        store(scores, total[b]);
        for (size_t i = 0; i < 8; ++i) {
            if (above >> i & 1) list->offer({scores[i], partial.entry, static_cast<uint32_t>(k + 8 * b + i)});
        }
    }
}

// Offers every extension of a partial choice by one of `words` words.
VQ_PATH inline void extend_partial(const Partial& partial, size_t words, Shortlist* list) {
    size_t k = 0;
    for (; k + 32 <= words; k += 32) offer_words<4>(partial, k, list);
    for (; k + 8 <= words; k += 8) offer_words<1>(partial, k, list);
    for (; k < words; ++k) {
        float total = partial.score + partial.dots[k];
        for (size_t i = 0; i < partial.past; ++i) total -= partial.gram[i][k];
        list->offer({total, partial.entry, static_cast<uint32_t>(k)});
    }
}
