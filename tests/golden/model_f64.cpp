#include <blackmamba/generate/generate.hpp>
#include <blackmamba/generate/score.hpp>

#include "support/golden_model.hpp"

using namespace blackmamba;

namespace {

constexpr double bound = 1e-10;

/// Runs `use(model, expected)` for every golden BlackMamba, container and context, in float64.
template <class Use>
void for_every_model(Use&& use) {
  for (auto const& folder : test::golden_folders("blackmamba-")) {
    auto const expected = io::TensorFile::open(folder / "expected.safetensors");
    auto const files = test::containers(folder);
    REQUIRE_FALSE(files.empty());
    for (auto const& container : files) {
      INFO(folder.string(), " ", container);
      test::with_golden_model<double>(folder, container, Reference{}, [&](auto& model) { use(model, expected); });
      test::with_golden_model<double>(folder, container, Cpu{2}, [&](auto& model) { use(model, expected); });
    }
  }
}

}  // namespace

TEST_CASE("golden: logits, loss, every layer's output and every router's logits in float64") {
  for_every_model([](auto& model, io::TensorFile const& expected) {
    auto const ids = expected.read<Token, 2>("input_ids");
    auto const logits = expected.read<double, 3>("logits");
    Index outputs = 0, routers = 0;
    // A block with two branches adds the second one's output into the first one's in place, so what the published code kept of its
    // mixer may be the mixer's own output or the block's: either is right, and one of them must be.
    std::vector<Tensor<double, 2>> mixer_of_parallel;
    Tap<double> const tap = [&](Index layer, char const* what, View<double const, 2> value) {
      auto const name = concat(what == std::string{"block_output"} ? "mixer_output" : what, '.', layer);
      if (!expected.contains(name)) return;
      INFO(name);
      bool const is_router = what == std::string{"router_logits"};
      auto const wanted = is_router ? expected.read<double, 2>(name) : [&] {
        auto const three = expected.read<double, 3>(name);
        Tensor<double, 2> two{Shape<2>{value.extent(0), value.extent(1)}};
        REQUIRE(two.size() == three.size());
        std::copy(three.begin(), three.end(), two.begin());
        return two;
      }();
      auto const found = test::compare_absolute(value, wanted.view(), bound);
      if (what == std::string{"mixer_output"} && !found) {
        mixer_of_parallel.push_back(wanted.clone());  // must be made good by this layer's block_output
        return;
      }
      if (what == std::string{"block_output"}) {
        if (mixer_of_parallel.empty()) return;
        mixer_of_parallel.pop_back();
      }
      CHECK_CLOSE(found);
      ++(is_router ? routers : outputs);
    };
    auto const got = test::forward(model, ids, {.tap = &tap});
    CHECK_CLOSE(test::compare_absolute(got.view(), logits.view(), bound));
    CHECK_MESSAGE(mixer_of_parallel.empty(), mixer_of_parallel.size(), " layer outputs differ");
    Index wanted_outputs = 0, wanted_routers = 0;
    for (auto const& name : expected.names()) {
      wanted_outputs += name.starts_with("mixer_output.");
      wanted_routers += name.starts_with("router_logits.");
    }
    CHECK(outputs >= wanted_outputs);
    CHECK(routers == wanted_routers);

    if (expected.contains("target_ids")) {
      auto const targets = expected.read<Token, 2>("target_ids");
      double const loss = expected.read<double, 1>("loss")(0);
      CHECK(std::fabs(score(model, ids, targets).mean() - loss) <= bound);
      CHECK(std::fabs(score(model, ids, targets, {.chunk = 7}).mean() - loss) <= bound);
    }
  });
}

TEST_CASE("golden: greedy continuation gives the published ids") {
  for_every_model([](auto& model, io::TensorFile const& expected) {
    if (!expected.contains("greedy_ids")) return;
    auto const prompt = expected.read<Token, 2>("greedy_prompt");
    auto const ids = expected.read<Token, 1>("greedy_ids");
    auto const got = generate(model, std::span<Token const>{prompt.data(), static_cast<std::size_t>(prompt.size())},
                              {.max_new_tokens = ids.size(), .sample = {.temperature = 0}, .prefill_chunk = 3});
    for (Index i = 0; i < ids.size(); ++i) CHECK(got(0, i) == ids(i));
  });
}

TEST_CASE("golden: token by token, prefill then steps, chunks, and packed sequences all equal the full forward") {
  for_every_model([](auto& model, io::TensorFile const& expected) {
    auto const ids = expected.read<Token, 2>("input_ids");
    auto const logits = expected.read<double, 3>("logits");
    Index const B = ids.extent(0), L = ids.extent(1), V = model.dims().vocab;
    Tensor<double, 3> got{logits.shape()};
    auto const chunk = [&](Index begin, Index length, auto& state) {
      auto const piece = converted<Token>(ids.view().slice(1, begin, length));
      Tensor<double, 3> out{Shape<3>{B, length, V}};
      model.forward(piece, out, {.state = &state});
      for (Index b = 0; b < B; ++b)
        for (Index l = 0; l < length; ++l)
          for (Index v = 0; v < V; ++v) got(b, begin + l, v) = out(b, l, v);
    };
    auto const step = [&](Index at, auto& state) {
      Tensor<Token, 1> tokens{Shape<1>{B}};
      for (Index b = 0; b < B; ++b) tokens(b) = ids(b, at);
      Tensor<double, 2> out{Shape<2>{B, V}};
      model.step(tokens, out, state);
      for (Index b = 0; b < B; ++b)
        for (Index v = 0; v < V; ++v) got(b, at, v) = out(b, v);
    };

    auto const check = [&](char const* how, auto&& run) {
      INFO(how);
      for (double& x : got) x = NAN;
      auto state = model.make_state(B);
      run(state);
      CHECK_CLOSE(test::compare_absolute(got.view(), logits.view(), bound));
    };

    check("token by token", [&](auto& state) {
      for (Index t = 0; t < L; ++t) step(t, state);
    });
    check("prefill, then steps", [&](auto& state) {
      chunk(0, L / 2, state);
      for (Index t = L / 2; t < L; ++t) step(t, state);
    });
    check("chunks of unequal length", [&](auto& state) {
      for (Index begin = 0, length = 1; begin < L; begin += length, length = length * 2 + 1) {
        length = std::min(length, L - begin);
        chunk(begin, length, state);
      }
    });
    check("packed sequences, one after another in a single row", [&](auto&) {
      Tensor<Index, 1> offsets{Shape<1>{B + 1}};
      for (Index b = 0; b <= B; ++b) offsets(b) = b * L;
      View<Token const, 2> const packed{ids.data(), Shape<2>{1, B * L}};
      View<double, 3> const out{got.data(), Shape<3>{1, B * L, V}};
      model.forward(packed, out, {.offsets = offsets});
    });
  });
}
