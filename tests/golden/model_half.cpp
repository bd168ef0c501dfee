#include <blackmamba/verify/exact.hpp>

#include "support/golden_model.hpp"

using namespace blackmamba;

/// Half precision rounds weights and activations to storage, and that alone costs what it costs. What the implementation adds, by
/// computing in float32 in between, must be small beside it: the yardstick is the same network with the same storage and every
/// operation between two roundings computed exactly (in double).
TEST_CASE_TEMPLATE("golden: the error in half precision is at most twice that of correctly rounded storage around exact arithmetic",
                   T, half, bf16) {
  for (auto const& folder : test::golden_folders("blackmamba-")) {
    INFO(folder.string());
    auto const expected = io::TensorFile::open(folder / "expected.safetensors");
    auto const ids = expected.read<Token, 2>("input_ids");
    auto const logits = expected.read<double, 3>("logits");
    double best = 0;
    auto const check = [&](auto& model) {
      double const error = test::rms_error(test::forward(model, ids).view(), logits.view());
      MESSAGE(std::string{scalar_traits<T>::name}, ": error ", error, ", of rounded storage alone ", best);
      CHECK(error > 0);
      CHECK(error <= 2 * best);
    };
    auto const container = test::containers(folder).at(0);
    test::with_golden_model<T>(folder, container, Reference{}, [&]<class Net>(Model<Net, T, Reference>& model) {
      Model<Net, verify::Exact<T>, Reference> exact{model.dims()};
      for (Index i = 0; i < model.flat().size(); ++i)
        exact.flat()(i) = verify::Exact<T>(static_cast<double>(widen(model.flat()(i))));
      best = test::rms_error(test::forward(exact, ids).view(), logits.view());
      check(model);
    });
    test::with_golden_model<T>(folder, container, Cpu{2}, check);
  }
}
