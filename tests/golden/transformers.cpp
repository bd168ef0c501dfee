#include <blackmamba/generate/generate.hpp>

#include "support/golden_model.hpp"

using namespace blackmamba;

/// The library that made these computes some steps in float32, so agreement is to about that.
TEST_CASE_TEMPLATE("golden: checkpoints of the transformers library give its logits within 1e-5 of the largest", T, float, double) {
  for (auto const& folder : test::golden_folders("hf-")) {
    auto const expected = io::TensorFile::open(folder / "expected.safetensors");
    auto const ids = expected.read<Token, 2>("input_ids");
    auto const logits = expected.read<double, 3>("logits");
    for (auto const& container : test::containers(folder)) {
      INFO(folder.string(), " ", container);
      auto const check = [&](auto& model) {
        CHECK_CLOSE(verify::compare_scaled(test::forward(model, ids).view(), logits.view(), 1e-5));

        Index const B = ids.extent(0), V = model.dims().vocab;
        auto state = model.make_state(B);
        Tensor<T, 3> stepped{logits.shape()};
        for (Index t = 0; t < ids.extent(1); ++t) {
          Tensor<Token, 1> tokens{Shape<1>{B}};
          for (Index b = 0; b < B; ++b) tokens(b) = ids(b, t);
          Tensor<T, 2> out{Shape<2>{B, V}};
          model.step(tokens, out, state);
          for (Index b = 0; b < B; ++b)
            for (Index v = 0; v < V; ++v) stepped(b, t, v) = out(b, v);
        }
        CHECK_CLOSE(verify::compare_scaled(stepped.view(), logits.view(), 1e-5));
      };
      test::with_golden_model<T>(folder, container, Reference{}, check);
      test::with_golden_model<T>(folder, container, Cpu{2}, check);
    }
  }
}
