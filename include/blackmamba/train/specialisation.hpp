#pragma once
/// \file
/// Which experts serve which kind of byte: counts of expert × class over a text, and how much one tells of the other.

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>
#include <vector>

#include <blackmamba/core/view.hpp>

namespace blackmamba {

/// Kinds of bytes of a text. `byte_class` says which byte is of which.
enum class ByteClass { letter, digit, space, newline, bracket, operation, punctuation, other };

inline constexpr Index byte_classes = 8;

/// A name to show, in the order of `ByteClass`.
inline constexpr std::array<std::string_view, byte_classes> byte_class_names{"letter",  "digit",    "space",       "newline",
                                                                             "bracket", "operator", "punctuation", "non-ASCII"};

/// The class of a byte:
///
///   letter        a-z A-Z _
///   digit         0-9
///   space         space, tab
///   newline       line feed, carriage return
///   bracket       ( ) [ ] { }
///   operator      + - * / % = < > ! & | ^ ~ ?
///   punctuation   the other printable ASCII characters
///   non-ASCII     bytes above 127, with the control characters that are left
constexpr ByteClass byte_class(unsigned char byte) {
  auto const in = [byte](std::string_view set) { return set.find(static_cast<char>(byte)) != std::string_view::npos; };
  if ((byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') || byte == '_') return ByteClass::letter;
  if (byte >= '0' && byte <= '9') return ByteClass::digit;
  if (in(" \t")) return ByteClass::space;
  if (in("\n\r")) return ByteClass::newline;
  if (in("()[]{}")) return ByteClass::bracket;
  if (in("+-*/%=<>!&|^~?")) return ByteClass::operation;
  return byte > ' ' && byte < 127 ? ByteClass::punctuation : ByteClass::other;
}

/// Information between the row and the column of a table of counts, row-major with `columns` columns, in bits:
///
///   I = Σ_ij p_ij log2(p_ij / (p_i p_j)) ;   0 where they are independent, at most the smaller of their entropies
///
/// Of n counts drawn at random it is too large by about (rows - 1)(columns - 1) / (2 n ln 2). 0 without counts.
inline double mutual_information(std::vector<Index> const& counts, Index columns) {
  check_value(columns > 0 && static_cast<Index>(counts.size()) % columns == 0, "mutual_information", counts.size(),
              " counts do not fill rows of ", columns);
  auto const width = static_cast<std::size_t>(columns), rows = counts.size() / width;
  std::vector<double> row(rows), column(width);
  double total = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    auto const n = static_cast<double>(counts[i]);
    row[i / width] += n, column[i % width] += n, total += n;
  }
  double bits = 0;
  for (std::size_t i = 0; i < counts.size(); ++i)
    if (auto const n = static_cast<double>(counts[i]); n > 0)
      bits += n / total * std::log2(n * total / (row[i / width] * column[i % width]));
  return std::max(bits, 0.0);
}

/// Counts of expert × class of one layer over a text of bytes.
class Specialisation {
 public:
  explicit Specialisation(Index n_experts) : counts_(static_cast<std::size_t>(n_experts * byte_classes)) {}

  /// Adds a pass: experts (tokens, slots), -1 empty; tokens (tokens). A token counts once for each of its experts. Throws
  /// `shape_error` on extents that disagree, `value_error` on a token that is no byte or an expert that there is not.
  void add(View<int const, 2> experts, View<Token const, 1> tokens) {
    auto const E = static_cast<Index>(counts_.size()) / byte_classes;
    check_shape("Specialisation", "experts", experts, Shape<2>{tokens.extent(0), experts.extent(1)}, "tokens");
    for (Index i = 0; i < tokens.extent(0); ++i) {
      check_value(tokens(i) >= 0 && tokens(i) < 256, "Specialisation", "token ", i, " is ", tokens(i), ", not a byte");
      auto const of = static_cast<std::size_t>(byte_class(static_cast<unsigned char>(tokens(i))));
      for (Index s = 0; s < experts.extent(1); ++s) {
        int const expert = experts(i, s);
        check_value(expert < E, "Specialisation", "token ", i, " goes to expert ", expert, " of ", E);
        if (expert >= 0) ++counts_[static_cast<std::size_t>(expert) * byte_classes + of];
      }
    }
  }

  /// (E, byte_classes), row-major.
  std::vector<Index> const& counts() const { return counts_; }

  /// Information between a token's class and its expert, in bits.
  double bits() const { return mutual_information(counts_, byte_classes); }

 private:
  std::vector<Index> counts_;
};

}  // namespace blackmamba
