#pragma once
/// \file
/// Batches of packed windows: shuffled over and over for training, in order for evaluation.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include <blackmamba/core/random.hpp>
#include <blackmamba/core/tensor.hpp>
#include <blackmamba/train/permutation.hpp>
#include <blackmamba/train/source.hpp>

namespace blackmamba {

/// The target of a position that has none: cross-entropy leaves it out.
inline constexpr Token no_target = -100;

/// One batch of n tokens in memory that is taken once. The state of the network is to be reset at every offset.
class TokenBatch {
 public:
  TokenBatch(Index n, Index max_sequences) : tokens_{Shape<1>{n}}, targets_{Shape<1>{n}}, offsets_{Shape<1>{max_sequences + 1}} {}

  View<Token const, 1> tokens() const { return tokens_.view(); }    ///< (n)
  View<Token const, 1> targets() const { return targets_.view(); }  ///< (n), the token after each; `no_target` where there is none
  View<Index const, 1> offsets() const { return {offsets_.data(), Shape<1>{sequences_ + 1}}; }  ///< (S + 1), from 0 to n

  Index size() const { return tokens_.size(); }
  Index sequences() const { return sequences_; }               ///< S of this batch
  Index max_sequences() const { return offsets_.size() - 1; }  ///< the most that S can be
  Index valid() const { return valid_; }                       ///< targets that are tokens

  /// Begins a batch anew.
  void clear() { filled_ = sequences_ = valid_ = 0; }

  /// Takes `length` further tokens as a new sequence, and says where they and their targets go.
  std::pair<std::span<Token>, std::span<Token>> take(Index length) {
    offsets_(sequences_++) = filled_;
    Token* const tokens = tokens_.data() + filled_;
    Token* const targets = targets_.data() + filled_;
    filled_ += length;
    offsets_(sequences_) = filled_;
    return {{tokens, static_cast<std::size_t>(length)}, {targets, static_cast<std::size_t>(length)}};
  }
  void add_valid(Index count) { valid_ += count; }

 private:
  Tensor<Token, 1> tokens_, targets_;
  Tensor<Index, 1> offsets_;
  Index filled_ = 0, sequences_ = 0, valid_ = 0;
};

namespace detail {

/// The documents of a source in a row that closes to a ring.
template <TokenSource Source>
class TokenRing {
 public:
  explicit TokenRing(Source const& source) : source_{&source} {
    begins_.reserve(static_cast<std::size_t>(source.documents()));
    for (Index i = 0; i < source.documents(); ++i)
      if (Index const length = source.length(i); length > 0) {
        documents_.push_back(i);
        begins_.push_back(size_);
        size_ += length;
      }
  }

  Index size() const { return size_; }
  Index documents() const { return static_cast<Index>(documents_.size()); }

  /// Positions whose next token is of the same document.
  Index pairs() const { return size_ - documents(); }

  /// Appends `length` tokens from `place` on, a sequence for each document that they touch. Only the first `live` may have targets.
  void append(Index place, Index length, Index live, TokenBatch& batch) const {
    auto at = static_cast<std::size_t>(std::upper_bound(begins_.begin(), begins_.end(), place) - begins_.begin()) - 1;
    while (length > 0) {
      Index const end = at + 1 < begins_.size() ? begins_[at + 1] : size_, inside = place - begins_[at];
      Index const run = std::min(length, end - place);
      auto const [tokens, targets] = batch.take(run);
      source_->read(documents_[at], inside, tokens);
      std::copy(tokens.begin() + 1, tokens.end(), targets.begin());
      Index valid = run;
      if (place + run < end)
        source_->read(documents_[at], inside + run, targets.last(1));
      else
        targets.back() = no_target, --valid;
      if (live < valid) {
        std::fill(targets.begin() + live, targets.end(), no_target);
        valid = live;
      }
      batch.add_valid(valid);
      length -= run;
      live = std::max<Index>(0, live - run);
      place = end;
      if (++at == begins_.size()) at = 0, place = 0;
    }
  }

  /// The most sequences that any `length` tokens in a row are cut into.
  Index max_sequences(Index length) const {
    // One for the first token; then as many as documents begin within the other length - 1, at most if one begins with the first.
    Index const turns = (length - 1) / size_, rest = (length - 1) % size_, count = documents();
    Index most = 0;
    for (Index first = 0, last = 0; first < count; ++first) {
      while (last < first + count && begin(last) < begin(first) + rest) ++last;
      most = std::max(most, last - first);
    }
    return 1 + turns * count + most;
  }

 private:
  Index begin(Index i) const {
    return i < documents() ? begins_[static_cast<std::size_t>(i)] : begins_[static_cast<std::size_t>(i - documents())] + size_;
  }

  Source const* source_;
  std::vector<Index> documents_, begins_;  ///< those that are not empty, and where each begins
  Index size_ = 0;
};

inline void check_window_extents(char const* op, Index length, Index sequences) {
  check_value(length >= 1, op, "windows have length ", length, ", not at least 1");
  check_value(sequences >= 1, op, "a batch has ", sequences, " sequences, not at least 1");
  check_value(length <= std::numeric_limits<Index>::max() / (4 * Index{sizeof(Index)}) / sequences, op, sequences,
              " sequences of length ", length, " are more than memory can hold");
}

}  // namespace detail

struct TrainingWindowOptions {
  Index length = 256;   ///< L, tokens of a window
  Index sequences = 8;  ///< windows of a batch
  std::uint64_t seed = 0;
};

/// Shuffled windows of L tokens and their L targets over a source of N tokens, without end.
///
/// The documents lie in a ring, in the order of the source. An epoch cuts it, from an offset that it draws, into W = ⌊N / L⌋
/// windows, and takes them in a random order; both are functions of (seed, epoch), computed where they are needed. So the place in
/// the data is one number, the count of windows taken so far: batch b of a run that takes whole batches begins at position b ·
/// sequences.
///
/// Within an epoch, every token that has one before it in its document is a target exactly once, but for the N mod L < L
/// positions that the windows leave over, which are others in the next epoch. The first token of a document is never a target, and
/// a window that crosses into a document begins a new sequence there.
///
/// The source must outlive the windows and stay where it is. Throws `value_error` with the numbers if the source is shorter than a
/// window and its last target, or has no two tokens in one document.
template <TokenSource Source>
class TrainingWindows {
 public:
  TrainingWindows(Source const& source, TrainingWindowOptions const& options) : options_{options}, ring_{source} {
    detail::check_window_extents("training windows", options.length, options.sequences);
    check_value(ring_.size() > options.length, "training windows", "there are ", ring_.size(), " tokens to learn from, in ",
                ring_.documents(), " documents; windows of ", options.length, " need at least ", options.length + 1);
    check_value(ring_.pairs() > 0, "training windows", "none of the ", ring_.documents(),
                " documents has two tokens, so there is nothing to predict");
    max_sequences_ = options.sequences * ring_.max_sequences(options.length);
  }

  TrainingWindowOptions const& options() const { return options_; }
  Index tokens() const { return ring_.size(); }                                ///< N
  Index per_epoch() const { return ring_.size() / options_.length; }           ///< W, windows
  Index batch_tokens() const { return options_.length * options_.sequences; }  ///< n
  Index max_sequences() const { return max_sequences_; }                       ///< the most sequences of a batch

  /// Memory for `fill`.
  TokenBatch make_batch() const { return {batch_tokens(), max_sequences_}; }

  /// Windows `position` to `position + sequences - 1` of the endless row of epochs, into a batch of `make_batch`. Allocates
  /// nothing; any number of threads may fill batches of their own. Throws `value_error` on a negative position and a batch of
  /// another size.
  void fill(Index position, TokenBatch& batch) const {
    check_value(position >= 0, "training windows", "the position is ", position, ", not at least 0");
    check_value(batch.size() == batch_tokens() && batch.max_sequences() >= max_sequences_, "training windows", "the batch holds ",
                batch.size(), " tokens in at most ", batch.max_sequences(), " sequences, not ", batch_tokens(), " in at most ",
                max_sequences_);
    batch.clear();
    for (Index i = 0; i < options_.sequences; ++i) ring_.append(begin_of(position + i), options_.length, options_.length, batch);
  }

 private:
  /// Where on the ring a window begins.
  Index begin_of(Index position) const {
    Index const epoch = position / per_epoch();
    Random const random = Random{options_.seed}.split(0x77696e646f777331).split(static_cast<std::uint64_t>(epoch));
    // The number 0 of the stream is the offset; the permutation has a stream of its own.
    Index const offset = random.below(0, ring_.size());
    Permutation const order{per_epoch(), random.split(1)};
    return (offset + order(position % per_epoch()) * options_.length) % ring_.size();
  }

  TrainingWindowOptions options_;
  detail::TokenRing<Source> ring_;
  Index max_sequences_;
};

struct EvaluationWindowOptions {
  Index length = 256;   ///< L
  Index sequences = 8;  ///< windows of a batch
  Index windows = 0;    ///< at most this many, spread evenly over the source; 0: all
};

/// Windows of L tokens over a source in its order, side by side, in as many batches as that takes.
///
/// With all windows, every token that has one before it in its document is a target exactly once. Batches are all of the same
/// size: what the last window and the last batch lack is text that has been seen, without targets.
///
/// The source must outlive the windows and stay where it is. Throws `value_error` if it has no two tokens in one document.
template <TokenSource Source>
class EvaluationWindows {
 public:
  EvaluationWindows(Source const& source, EvaluationWindowOptions const& options) : options_{options}, ring_{source} {
    detail::check_window_extents("evaluation windows", options.length, options.sequences);
    check_value(options.windows >= 0, "evaluation windows", "there are to be at most ", options.windows, ", not at least 0");
    check_value(ring_.pairs() > 0, "evaluation windows", "the held-out text has ", ring_.size(), " tokens in ", ring_.documents(),
                " documents, no two in one, so there is nothing to predict");
    // The last token has no successor.
    there_are_ = ceil_div(ring_.size() - 1, options.length);
    windows_ = options.windows == 0 ? there_are_ : std::min(options.windows, there_are_);
    max_sequences_ = options.sequences * ring_.max_sequences(options.length);
  }

  EvaluationWindowOptions const& options() const { return options_; }
  Index tokens() const { return ring_.size(); }
  Index windows() const { return windows_; }
  Index batches() const { return ceil_div(windows_, options_.sequences); }
  Index batch_tokens() const { return options_.length * options_.sequences; }
  Index max_sequences() const { return max_sequences_; }

  TokenBatch make_batch() const { return {batch_tokens(), max_sequences_}; }

  /// Batch `index` of `batches()`. Allocates nothing; any number of threads may fill batches of their own.
  void fill(Index index, TokenBatch& batch) const {
    check_value(index >= 0 && index < batches(), "evaluation windows", "there is no batch ", index, " of ", batches());
    check_value(batch.size() == batch_tokens() && batch.max_sequences() >= max_sequences_, "evaluation windows", "the batch holds ",
                batch.size(), " tokens in at most ", batch.max_sequences(), " sequences, not ", batch_tokens(), " in at most ",
                max_sequences_);
    batch.clear();
    for (Index i = 0; i < options_.sequences; ++i) {
      Index const number = index * options_.sequences + i, window = number % windows_;
      // ⌊window · there_are / windows⌋ without the product, which might not fit
      Index const chosen = there_are_ / windows_ * window + there_are_ % windows_ * window / windows_;
      Index const begin = chosen * options_.length;
      Index const live = number < windows_ ? std::min(options_.length, ring_.size() - begin) : 0;
      ring_.append(begin, options_.length, live, batch);
    }
  }

 private:
  EvaluationWindowOptions options_;
  detail::TokenRing<Source> ring_;
  Index there_are_, windows_, max_sequences_;
};

}  // namespace blackmamba
