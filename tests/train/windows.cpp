#include <blackmamba/train/windows.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include <blackmamba/core/parallel.hpp>

using namespace blackmamba;

namespace {

/// Documents of these lengths in which no token occurs twice, so that a token says where it stands.
MemorySource numbered(std::vector<Index> const& lengths) {
  MemorySource source;
  Token next = 0;
  for (Index const length : lengths) {
    std::vector<Token> text(static_cast<std::size_t>(length));
    std::iota(text.begin(), text.end(), next);
    next += static_cast<Token>(length);
    source.text.push_back(std::move(text));
  }
  return source;
}

/// The tokens that have one before them in their document.
template <TokenSource Source>
std::set<Token> predictable(Source const& source) {
  std::set<Token> out;
  for (Index i = 0; i < source.documents(); ++i)
    for (Index k = 1; k < source.length(i); ++k) {
      Token token;
      source.read(i, k, {&token, 1});
      out.insert(token);
    }
  return out;
}

std::vector<Token> all(View<Token const, 1> view) { return {view.data(), view.data() + view.size()}; }
std::vector<Index> all(View<Index const, 1> view) { return {view.data(), view.data() + view.size()}; }

bool same(TokenBatch const& a, TokenBatch const& b) {
  return all(a.tokens()) == all(b.tokens()) && all(a.targets()) == all(b.targets()) && all(a.offsets()) == all(b.offsets()) &&
         a.valid() == b.valid();
}

/// The laws of every batch over numbered documents: offsets ascend over all of it and stand at every window's start; within a
/// sequence tokens follow each other in one document; a target is the token after, and none crosses into another document.
template <class Windows>
void check_batch(MemorySource const& source, Windows const& windows, TokenBatch const& batch) {
  auto const offsets = all(batch.offsets());
  REQUIRE(offsets.size() >= 2);
  CHECK(offsets.front() == 0);
  CHECK(offsets.back() == batch.size());
  CHECK(batch.sequences() <= windows.max_sequences());
  CHECK(std::adjacent_find(offsets.begin(), offsets.end(), std::greater_equal<>{}) == offsets.end());
  for (Index i = 0; i < windows.options().sequences; ++i)
    CHECK(std::binary_search(offsets.begin(), offsets.end(), i * windows.options().length));

  std::map<Token, std::size_t> document_of;
  for (std::size_t i = 0; i < source.text.size(); ++i)
    for (Token const token : source.text[i]) document_of[token] = i;
  Index valid = 0;
  for (std::size_t s = 0; s + 1 < offsets.size(); ++s)
    for (Index i = offsets[s]; i < offsets[s + 1]; ++i) {
      Token const token = batch.tokens()(i), target = batch.targets()(i);
      if (i > offsets[s]) CHECK(token == batch.tokens()(i - 1) + 1);
      CHECK(document_of.at(token) == document_of.at(batch.tokens()(offsets[s])));
      if (target == no_target) continue;
      ++valid;
      CHECK(target == token + 1);
      CHECK(document_of.at(target) == document_of.at(token));
    }
  CHECK(batch.valid() == valid);
}

std::vector<std::vector<Index>> const shapes{{257},          {64, 64, 64, 64},    {1, 1, 2, 1, 0, 0, 7, 31, 1, 101, 0},
                                             {0, 5, 0, 300}, {3, 1, 1, 1, 1, 97}, {17, 1}};

/// The message with which `f` fails; "done" if it does not.
template <class F>
std::string refusal(F&& f) {
  try {
    f();
  } catch (value_error const& e) {
    return e.what();
  }
  return "done";
}

}  // namespace

TEST_CASE("permutation: every number below the count comes once, for every count and key") {
  for (Index const count : {1, 2, 3, 4, 5, 7, 16, 17, 97, 1000, 4099})
    for (std::uint64_t const key : {0u, 1u, 77u}) {
      Permutation const order{count, Random{key}};
      std::vector<bool> seen(static_cast<std::size_t>(count));
      for (Index i = 0; i < count; ++i) {
        Index const at = order(i);
        REQUIRE(at >= 0);
        REQUIRE(at < count);
        CHECK_FALSE(seen[static_cast<std::size_t>(at)]);
        seen[static_cast<std::size_t>(at)] = true;
      }
    }
}

TEST_CASE("permutation: where a number goes is uniform over keys, and so is where its neighbour goes from there") {
  constexpr Index count = 7, keys = 7000;
  Index place[count]{}, step[count]{};
  for (Index key = 0; key < keys; ++key) {
    Permutation const order{count, Random{static_cast<std::uint64_t>(key)}};
    ++place[order(3)];
    ++step[(order(4) - order(3) + count) % count];
  }
  // Standard deviation of a count of mean 1000 is 29, of one of mean 1167 is 31; six of them are allowed.
  for (Index i = 0; i < count; ++i) CHECK(std::abs(place[i] - keys / count) < 6 * 29);
  CHECK(step[0] == 0);
  for (Index i = 1; i < count; ++i) CHECK(std::abs(step[i] - keys / (count - 1)) < 6 * 31);
}

TEST_CASE("windows: in an epoch every token that can be predicted is a target once, but for less than a window") {
  for (auto const& lengths : shapes)
    for (Index const length : {1, 2, 7, 16})
      for (Index const sequences : {1, 3}) {
        auto const source = numbered(lengths);
        TrainingWindows const windows{source, {.length = length, .sequences = sequences, .seed = 5}};
        CAPTURE(lengths.size());
        CAPTURE(length);
        auto batch = windows.make_batch();
        Index const total = total_tokens(source), W = windows.per_epoch();
        CHECK(W == total / length);
        auto const wanted = predictable(source);
        // Three epochs, window by window, so that batches that straddle two of them do not matter here.
        TrainingWindows const one_by_one{source, {.length = length, .sequences = 1, .seed = 5}};
        auto single = one_by_one.make_batch();
        for (Index epoch = 0; epoch < 3; ++epoch) {
          std::map<Token, int> times;
          std::set<Token> inputs;
          for (Index w = epoch * W; w < (epoch + 1) * W; ++w) {
            one_by_one.fill(w, single);
            check_batch(source, one_by_one, single);
            for (Token const target : all(single.targets())) ++times[target];
            for (Token const token : all(single.tokens())) CHECK(inputs.insert(token).second);
          }
          times.erase(no_target);
          for (auto const& [token, count] : times) {
            CHECK(count == 1);
            CHECK(wanted.contains(token));
          }
          CHECK(static_cast<Index>(inputs.size()) == W * length);
          CHECK(static_cast<Index>(wanted.size() - times.size()) <= total % length);
        }
        windows.fill(0, batch);
        check_batch(source, windows, batch);
      }
}

TEST_CASE("windows: a batch is a function of the position, and its windows are those of the positions one by one") {
  auto const source = numbered({100, 1, 57, 333, 9});
  TrainingWindowOptions const options{.length = 16, .sequences = 4, .seed = 1};
  TrainingWindows const windows{source, options}, again{source, options};
  TrainingWindows const single{source, {.length = 16, .sequences = 1, .seed = 1}};
  auto a = windows.make_batch(), b = again.make_batch(), one = single.make_batch();
  // Forwards with one, backwards with the other, across the ends of epochs (31 windows each).
  std::vector<TokenBatch> forwards;
  for (Index position = 0; position < 100; position += 4) {
    windows.fill(position, a);
    for (Index i = 0; i < 4; ++i) {
      single.fill(position + i, one);
      CHECK(std::equal(one.tokens().data(), one.tokens().data() + 16, a.tokens().data() + 16 * i));
      CHECK(std::equal(one.targets().data(), one.targets().data() + 16, a.targets().data() + 16 * i));
    }
    forwards.push_back(std::move(a));
    a = windows.make_batch();
  }
  for (Index position = 96; position >= 0; position -= 4) {
    again.fill(position, b);
    CHECK(same(b, forwards[static_cast<std::size_t>(position / 4)]));
  }
}

TEST_CASE("windows: threads that fill batches of their own get the same ones as one thread") {
  auto const source = numbered({1000, 3, 1, 500});
  TrainingWindows const windows{source, {.length = 32, .sequences = 3, .seed = 9}};
  std::vector<TokenBatch> alone, together;
  for (Index i = 0; i < 64; ++i) alone.push_back(windows.make_batch()), together.push_back(windows.make_batch());
  for (Index i = 0; i < 64; ++i) windows.fill(3 * i, alone[static_cast<std::size_t>(i)]);
  parallel_for(2, 64, [&](Index i) { windows.fill(3 * i, together[static_cast<std::size_t>(i)]); });
  for (std::size_t i = 0; i < 64; ++i) CHECK(same(alone[i], together[i]));
}

TEST_CASE("windows: other epochs and other seeds have another order and cut at other places") {
  auto const source = numbered({4096});
  TrainingWindows const windows{source, {.length = 16, .sequences = 1, .seed = 1}};
  TrainingWindows const other{source, {.length = 16, .sequences = 1, .seed = 2}};
  auto batch = windows.make_batch();
  auto const starts = [&](auto const& from, Index epoch) {
    std::vector<Token> out;
    for (Index w = 0; w < 256; ++w) {
      from.fill(256 * epoch + w, batch);
      out.push_back(batch.tokens()(0));
    }
    return out;
  };
  auto const first = starts(windows, 0), second = starts(windows, 1), elsewhere = starts(other, 0);
  for (auto const& row : {first, second, elsewhere}) {
    CHECK_FALSE(std::is_sorted(row.begin(), row.end()));
    // All windows of an epoch are cut at the same distance from multiples of the length.
    for (Token const start : row) CHECK(start % 16 == row[0] % 16);
  }
  CHECK(first != second);
  CHECK(first != elsewhere);
  std::set<Token> cuts;
  for (Index epoch = 0; epoch < 32; ++epoch) {
    windows.fill(256 * epoch, batch);
    cuts.insert(batch.tokens()(0) % 16);
  }
  CHECK(cuts.size() > 8);
}

TEST_CASE("windows: the bound on the sequences of a batch is reached, and never passed") {
  for (auto const& lengths : shapes)
    for (Index const length : {1, 2, 5, 16}) {
      auto const source = numbered(lengths);
      TrainingWindows const windows{source, {.length = length, .sequences = 1, .seed = 3}};
      auto batch = windows.make_batch();
      Index most = 0;
      // With all offsets that thousands of epochs draw, every place of the ring is a window's start.
      for (Index position = 0; position < 4000 * windows.per_epoch() && most < windows.max_sequences(); ++position) {
        windows.fill(position, batch);
        REQUIRE(batch.sequences() <= windows.max_sequences());
        most = std::max(most, batch.sequences());
      }
      CHECK(most == windows.max_sequences());
    }
}

TEST_CASE("evaluation windows: every token that can be predicted is a target once, in order, in batches of one size") {
  for (auto const& lengths : shapes)
    for (Index const length : {1, 2, 16, 1000})
      for (Index const sequences : {1, 3}) {
        auto const source = numbered(lengths);
        EvaluationWindows const windows{source, {.length = length, .sequences = sequences}};
        auto batch = windows.make_batch();
        std::vector<Token> targets;
        for (Index i = 0; i < windows.batches(); ++i) {
          windows.fill(i, batch);
          auto const offsets = all(batch.offsets());
          CHECK(offsets.back() == length * sequences);
          CHECK(batch.sequences() <= windows.max_sequences());
          Index valid = 0;
          for (Index k = 0; k < batch.size(); ++k)
            if (Token const target = batch.targets()(k); target != no_target) {
              CHECK(target == batch.tokens()(k) + 1);
              targets.push_back(target);
              ++valid;
            }
          CHECK(batch.valid() == valid);
          if (length < total_tokens(source)) check_batch(source, windows, batch);
        }
        auto const wanted = predictable(source);
        CHECK(targets == std::vector<Token>(wanted.begin(), wanted.end()));
      }
}

TEST_CASE("evaluation windows: a limit takes that many, spread over the text") {
  auto const source = numbered({1001});
  EvaluationWindows const windows{source, {.length = 10, .sequences = 4, .windows = 7}};
  CHECK(windows.windows() == 7);
  CHECK(windows.batches() == 2);
  auto batch = windows.make_batch();
  std::vector<Token> starts;
  Index valid = 0;
  for (Index i = 0; i < 2; ++i) {
    windows.fill(i, batch);
    for (Index w = 0; w < 4; ++w)
      if (batch.targets()(10 * w) != no_target) starts.push_back(batch.tokens()(10 * w));
    valid += batch.valid();
  }
  CHECK(starts == std::vector<Token>{0, 140, 280, 420, 570, 710, 850});
  CHECK(valid == 70);
  CHECK(EvaluationWindows{source, {.length = 10, .windows = 1000}}.windows() == 100);
}

TEST_CASE("split: the parts are disjoint and together the whole, whatever the documents are") {
  for (auto const& lengths : shapes)
    for (double const share : {0.0, 0.03, 0.1, 0.5})
      for (Index const block : {1, 8, 1000}) {
        auto const source = numbered(lengths);
        Index const total = total_tokens(source);
        if (share > 0 && share * static_cast<double>(total) < 1) continue;
        auto const split = split_source(source, {.held_out = share, .block = block});
        std::set<Token> seen;
        for (auto const* part : {&split.training, &split.held_out})
          for (Index i = 0; i < part->documents(); ++i) {
            REQUIRE(part->length(i) > 0);
            std::vector<Token> text(static_cast<std::size_t>(part->length(i)));
            part->read(i, 0, text);
            for (std::size_t k = 0; k < text.size(); ++k) {
              CHECK(seen.insert(text[k]).second);
              if (k > 0) CHECK(text[k] == text[k - 1] + 1);
            }
          }
        CHECK(static_cast<Index>(seen.size()) == total);
        CHECK((total_tokens(split.held_out) > 0) == (share > 0));
      }
}

TEST_CASE("split: one file is held out in blocks at even distances, a short one at its end, short documents as they are") {
  auto const large = numbered({10000});
  auto const blocks = split_source(large, {.held_out = 0.1, .block = 100});
  REQUIRE(blocks.held_out.documents() == 10);
  for (Index i = 0; i < 10; ++i) {
    CHECK(blocks.held_out.piece(i).begin == 1000 * i + 900);
    CHECK(blocks.held_out.length(i) == 100);
    CHECK(blocks.training.length(i) == 900);
  }
  auto const tail = split_source(large, {.held_out = 0.1, .block = 5000});
  REQUIRE(tail.held_out.documents() == 1);
  CHECK(tail.held_out.piece(0).begin == 9000);
  CHECK(tail.held_out.length(0) == 1000);

  auto const many = numbered(std::vector<Index>(1000, 37));
  auto const whole = split_source(many, {.held_out = 0.1, .block = 370});
  for (auto const* part : {&whole.training, &whole.held_out})
    for (Index i = 0; i < part->documents(); ++i) CHECK(part->length(i) == 37);
  CHECK(whole.held_out.documents() == 100);
}

TEST_CASE("split: no token that is held out is ever trained on, as input or as target") {
  auto const source = numbered({500, 3, 1, 0, 801, 40, 40, 40, 1200});
  auto const split = split_source(source, {.held_out = 0.2, .block = 64});
  std::set<Token> held_out;
  for (Index i = 0; i < split.held_out.documents(); ++i)
    for (Index k = 0; k < split.held_out.length(i); ++k) {
      Token token;
      split.held_out.read(i, k, {&token, 1});
      held_out.insert(token);
    }
  CHECK(held_out.size() > 400);
  TrainingWindows const windows{split.training, {.length = 24, .sequences = 5, .seed = 11}};
  auto batch = windows.make_batch();
  for (Index position = 0; position < 4 * windows.per_epoch(); position += 5) {
    windows.fill(position, batch);
    check_batch(source, windows, batch);
    for (Index i = 0; i < batch.size(); ++i) {
      CHECK_FALSE(held_out.contains(batch.tokens()(i)));
      CHECK_FALSE(held_out.contains(batch.targets()(i)));
    }
  }
}

TEST_CASE("windows: text that is too short, and sizes that are none, are refused with the numbers") {
  auto const make = [](std::vector<Index> const& lengths, TrainingWindowOptions const& options) {
    return refusal([&] {
      auto const source = numbered(lengths);
      TrainingWindows const windows{source, options};
    });
  };
  CHECK(make({10, 6}, {.length = 16, .sequences = 2}) ==
        "training windows: there are 16 tokens to learn from, in 2 documents; windows of 16 need at least 17");
  CHECK(make({}, {.length = 1}) ==
        "training windows: there are 0 tokens to learn from, in 0 documents; windows of 1 need at least 2");
  CHECK(make({17}, {.length = 16}) == "done");
  CHECK(make({1, 1, 1}, {.length = 2}) ==
        "training windows: none of the 3 documents has two tokens, so there is nothing to predict");
  CHECK(make({17}, {.length = 0}) == "training windows: windows have length 0, not at least 1");
  CHECK(make({17}, {.sequences = 0}) == "training windows: a batch has 0 sequences, not at least 1");
  CHECK(make({17}, {.length = 1 << 30, .sequences = Index{1} << 40}) ==
        "training windows: 1099511627776 sequences of length 1073741824 are more than memory can hold");

  auto const source = numbered({100});
  CHECK(refusal([&] {
          EvaluationWindows{numbered({1}), {}};
        }) == "evaluation windows: the held-out text has 1 tokens in 1 documents, no two in one, so there is nothing to predict");
  CHECK(refusal([&] {
          EvaluationWindows{source, {.windows = -1}};
        }) == "evaluation windows: there are to be at most -1, not at least 0");
  TrainingWindows const windows{source, {.length = 8, .sequences = 2}};
  EvaluationWindows const evaluation{source, {.length = 8, .sequences = 2}};
  TokenBatch batch{8, 8}, good = windows.make_batch();
  CHECK(refusal([&] { windows.fill(-1, good); }) == "training windows: the position is -1, not at least 0");
  CHECK(refusal([&] { windows.fill(0, batch); }) ==
        "training windows: the batch holds 8 tokens in at most 8 sequences, not 16 in at most 4");
  CHECK(refusal([&] { evaluation.fill(7, good); }) == "evaluation windows: there is no batch 7 of 7");
  CHECK(refusal([&] { evaluation.fill(0, batch); }) ==
        "evaluation windows: the batch holds 8 tokens in at most 8 sequences, not 16 in at most 4");
  CHECK(refusal([&] { split_source(source, {.held_out = 0.6}); }) ==
        "split_source: the held-out share is 0.6, not within 0 and 0.5");
  CHECK(refusal([&] { split_source(source, {.held_out = 0.001}); }) ==
        "split_source: a share of 0.001 of 100 tokens is less than one token to hold out");
  CHECK(refusal([&] { split_source(source, {.block = 0}); }) == "split_source: block is 0, not at least 1");
}
