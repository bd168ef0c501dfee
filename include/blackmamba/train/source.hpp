#pragma once
/// \file
/// What the trainer asks of text: documents of tokens that can be read from anywhere, and their split into what is learnt from and
/// what is held out.

#include <algorithm>
#include <cmath>
#include <concepts>
#include <span>
#include <vector>

#include <blackmamba/core/config.hpp>
#include <blackmamba/core/error.hpp>
#include <blackmamba/core/shape.hpp>

namespace blackmamba {

/// Text to learn from, whatever holds it: `documents()` of them, of `length(i)` tokens each; `read(i, begin, out)` copies
/// `out.size()` tokens of document i from `begin` on, on any thread.
template <class S>
concept TokenSource = requires(S const& source, Index i, std::span<Token> out) {
  { source.documents() } -> std::convertible_to<Index>;
  { source.length(i) } -> std::convertible_to<Index>;
  source.read(i, i, out);
};

/// Tokens of all documents together.
template <TokenSource Source>
Index total_tokens(Source const& source) {
  Index total = 0;
  for (Index i = 0; i < source.documents(); ++i) total += source.length(i);
  return total;
}

/// Documents that lie in memory.
struct MemorySource {
  std::vector<std::vector<Token>> text;

  Index documents() const { return static_cast<Index>(text.size()); }
  Index length(Index i) const { return static_cast<Index>(text[static_cast<std::size_t>(i)].size()); }
  void read(Index i, Index begin, std::span<Token> out) const {
    std::copy_n(text[static_cast<std::size_t>(i)].begin() + begin, out.size(), out.begin());
  }
};

/// A selection from another source, which must outlive it and stay where it is: each document is a document of that one, or a
/// stretch of one.
template <TokenSource Source>
class SourcePart {
 public:
  struct Piece {
    Index document, begin, length;
  };

  explicit SourcePart(Source const& source) : source_{&source} {}

  Index documents() const { return static_cast<Index>(pieces_.size()); }
  Index length(Index i) const { return piece(i).length; }
  void read(Index i, Index begin, std::span<Token> out) const { source_->read(piece(i).document, piece(i).begin + begin, out); }

  /// Where document i lies in the whole.
  Piece const& piece(Index i) const { return pieces_[static_cast<std::size_t>(i)]; }

  /// Pieces come in order; one that continues the last one joins it.
  void add(Piece const& next) {
    if (!pieces_.empty() && pieces_.back().document == next.document && pieces_.back().begin + pieces_.back().length == next.begin)
      pieces_.back().length += next.length;
    else
      pieces_.push_back(next);
  }

 private:
  Source const* source_;
  std::vector<Piece> pieces_;
};

struct SplitOptions {
  double held_out = 0.05;        ///< share of the tokens, in [0, 1/2]
  Index block = Index{1} << 15;  ///< tokens held out at one place: the larger, the fewer the places and the fewer the cuts
};

/// The parts of `split_source`: disjoint, and together the whole.
template <TokenSource Source>
struct SourceSplit {
  SourcePart<Source> training, held_out;
};

/// Holds out a share of the tokens, spread evenly over the source, the same ones on every machine and for every seed.
///
/// The documents lie in a row of N tokens, which is cut into periods of block / held_out tokens; what lies in the last `block`
/// tokens of a period is held out. A document of up to `block` tokens goes, by its middle, to one side as a whole; only longer ones
/// are cut, into even pieces of at most `block`, and each piece goes by its middle. So many small files are held out as whole
/// files, one large file in stretches of `block`, and where N is less than a period, the held-out part is the end of the row: the
/// tail of a single small file. No token is in both parts; a cut is a document boundary for both.
///
/// Throws `value_error` if the share is outside [0, 1/2], `block` is below 1, or the share of the N tokens is less than one token.
template <TokenSource Source>
SourceSplit<Source> split_source(Source const& source, SplitOptions const& options = {}) {
  double const share = options.held_out;
  check_value(share >= 0 && share <= 0.5, "split_source", "the held-out share is ", share, ", not within 0 and 0.5");
  check_value(options.block >= 1, "split_source", "block is ", options.block, ", not at least 1");
  auto const total = static_cast<double>(total_tokens(source));
  double const zone = std::min(static_cast<double>(options.block), total * share);
  check_value(share == 0 || zone >= 1, "split_source", "a share of ", share, " of ", static_cast<Index>(total),
              " tokens is less than one token to hold out");
  double const period = zone < static_cast<double>(options.block) ? total : zone / share;
  auto const longest = static_cast<Index>(zone);

  SourceSplit<Source> out{SourcePart<Source>{source}, SourcePart<Source>{source}};
  double place = 0;
  for (Index i = 0; i < source.documents(); ++i) {
    Index const length = source.length(i), pieces = share == 0 ? (length > 0) : ceil_div(length, longest);
    Index begin = 0;
    for (Index k = 0; k < pieces; ++k) {
      Index const size = length / pieces + (k < length % pieces);
      double const middle = place + static_cast<double>(size) / 2;
      bool const held_out = share > 0 && std::fmod(middle, period) >= period - zone;
      (held_out ? out.held_out : out.training).add({i, begin, size});
      begin += size;
      place += static_cast<double>(size);
    }
  }
  return out;
}

}  // namespace blackmamba
