#pragma once
/// \file
/// The sequences that an operation along the length walks: one a batch entry, or several packed into the length of a batch of one.

#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Number of sequences: the batch, or S where `offsets` (S + 1) packs S of them into a batch of one.
/// Throws `shape_error` if packed sequences stand in a larger batch, or `offsets` has no element.
inline Index sequence_count(char const* op, View<Index const, 1> offsets, Index batch) {
  if (!offsets) return batch;
  if (batch != 1) throw shape_error(concat(op, ": packed sequences need a batch of 1, u or x has a batch of ", batch));
  if (offsets.extent(0) < 1) throw shape_error(concat(op, ": offsets has no element, S + 1 are needed for S sequences"));
  return offsets.extent(0) - 1;
}

/// Where each sequence begins and ends.
class Sequences {
 public:
  struct Range {
    Index batch, begin, end;
  };

  /// Throws `value_error`, naming the element, unless offsets ascend from 0 to `length`.
  Sequences(char const* op, View<Index const, 1> offsets, Index batch, Index length)
      : offsets_{offsets}, count_{sequence_count(op, offsets, batch)}, length_{length} {
    if (!offsets) return;
    check_value(offsets[0] == 0, op, "offsets[0] is ", offsets[0], ", not 0");
    for (Index s = 0; s < count_; ++s)
      check_value(offsets[s] <= offsets[s + 1], op, "offsets[", s + 1, "] is ", offsets[s + 1], ", less than offsets[", s,
                  "], which is ", offsets[s]);
    check_value(offsets[count_] == length, op, "offsets[", count_, "] is ", offsets[count_], ", not the length ", length);
  }

  Index count() const { return count_; }
  Range operator[](Index s) const { return offsets_ ? Range{0, offsets_[s], offsets_[s + 1]} : Range{s, 0, length_}; }

 private:
  View<Index const, 1> offsets_;
  Index count_, length_;
};

}  // namespace blackmamba
