#include "support/golden_model.hpp"

using namespace blackmamba;

TEST_CASE("golden: logits in float32 are within 1e-5 of the largest, on both contexts") {
  for (auto const& folder : test::golden_folders("blackmamba-")) {
    auto const expected = io::TensorFile::open(folder / "expected.safetensors");
    auto const ids = expected.read<Token, 2>("input_ids");
    auto const logits = expected.read<double, 3>("logits");
    auto const files = test::containers(folder);
    REQUIRE_FALSE(files.empty());
    for (auto const& container : files) {
      INFO(folder.string(), " ", container);
      auto const check = [&](auto& model) {
        auto const got = test::forward(model, ids);
        CHECK_CLOSE(verify::compare_scaled(got.view(), logits.view(), 1e-5));
      };
      test::with_golden_model<float>(folder, container, Reference{}, check);
      test::with_golden_model<float>(folder, container, Cpu{1}, check);
      test::with_golden_model<float>(folder, container, Cpu{2}, check);
    }
  }
}

TEST_CASE("golden: one thread and two give the same bits") {
  for (auto const& folder : test::golden_folders("blackmamba-")) {
    INFO(folder.string());
    auto const ids = io::TensorFile::open(folder / "expected.safetensors").read<Token, 2>("input_ids");
    Tensor<float, 3> one;
    test::with_golden_model<float>(folder, test::containers(folder).at(0), Cpu{1},
                                   [&](auto& model) { one = test::forward(model, ids); });
    test::with_golden_model<float>(folder, test::containers(folder).at(0), Cpu{2}, [&](auto& model) {
      auto const two = test::forward(model, ids);
      REQUIRE(two.size() == one.size());
      for (Index i = 0; i < one.size(); ++i) REQUIRE(one.data()[i] == two.data()[i]);
    });
  }
}
