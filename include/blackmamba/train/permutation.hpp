#pragma once
/// \file
/// A random order of 0 … n-1 that is computed where it is asked, not stored.

#include <cmath>

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/shape.hpp>

namespace blackmamba {

/// A bijection of [0, count) that its key chooses: a Feistel network on pairs (l, r) of a × b ≥ count, each round of which adds to
/// one half a random function of the other. A value that lands beyond `count` goes through again until it does not, which keeps the
/// map a bijection; a b - count < a + 1, so that is rare.
///
/// Source: Black & Rogaway 2002, "Ciphers with arbitrary finite domains" (generalised Feistel, cycle walking).
class Permutation {
 public:
  /// count ≥ 1, and below 2^62.
  Permutation(Index count, Random key) : count_{count}, left_{root(count)}, right_{ceil_div(count, left_)}, key_{key} {}

  Index count() const { return count_; }

  Index operator()(Index i) const {
    do {
      Index l = i / right_, r = i % right_;
      for (int round = 0; round < rounds; round += 2) {
        l = (l + drawn(round, r, left_)) % left_;
        r = (r + drawn(round + 1, l, right_)) % right_;
      }
      i = l * right_ + r;
    } while (i >= count_);
    return i;
  }

 private:
  static constexpr int rounds = 8;

  /// ⌈√count⌉
  static Index root(Index count) {
    auto guess = static_cast<Index>(std::sqrt(static_cast<double>(count)));
    while (guess * guess < count) ++guess;
    return guess;
  }

  Index drawn(int round, Index x, Index below) const { return key_.below(static_cast<std::uint64_t>(x * rounds + round), below); }

  Index count_, left_, right_;
  Random key_;
};

}  // namespace blackmamba
