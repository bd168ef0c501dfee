#pragma once
// Whole models from the golden folders, in any scalar, on any context, and what they are expected to compute.

#include <cmath>

#include <blackmamba/io/load.hpp>

#include "support/data.hpp"
#include "support/op_test.hpp"

namespace test {

namespace fs = std::filesystem;

/// Calls `use(model)` with the network that config.json describes and the weights of `container`, a file in the folder.
template <class T, class Ctx, class Use>
void with_golden_model(fs::path const& folder, std::string const& container, Ctx const& ctx, Use&& use) {
  auto const config = io::read_config(folder);
  io::with_network(config, [&]<class Net>(Type<Net>, auto const& dims) {
    Model<Net, T, Ctx> model{dims, ctx};
    io::load_weights(model, io::TensorFile::open(folder / container), io::Naming{config.family});
    use(model);
  });
}

/// The containers of weights that a folder has.
inline std::vector<std::string> containers(fs::path const& folder) {
  std::vector<std::string> found;
  for (char const* name : {"model.safetensors.index.json", "model.safetensors", "pytorch_model.bin"})
    if (fs::exists(folder / name)) found.push_back(name);
  return found;
}

/// Folders that begin so and have an expected.safetensors; there must be at least one.
inline std::vector<fs::path> golden_folders(std::string const& prefix) {
  std::vector<fs::path> found;
  for (auto const& folder : entries(data_folder(), prefix))
    if (fs::exists(folder / "expected.safetensors")) found.push_back(folder);
  REQUIRE_MESSAGE(!found.empty(), "no ", prefix, "*/ with expected.safetensors in ", data_folder().string());
  return found;
}

/// Compares under an absolute bound.
template <class G, class E, int Rank>
verify::Comparison compare_absolute(View<G, Rank> got, View<E, Rank> expected, double bound) {
  return verify::compare_with(got, expected, [bound](double, double) { return bound; });
}

/// Root mean square of the difference.
template <class G, class E, int Rank>
double rms_error(View<G, Rank> got, View<E, Rank> expected) {
  auto const g = converted<double>(View<typename View<G, Rank>::value_type const, Rank>{got});
  auto const e = converted<double>(View<typename View<E, Rank>::value_type const, Rank>{expected});
  double sum = 0;
  for (Index i = 0; i < g.size(); ++i) sum += (g.data()[i] - e.data()[i]) * (g.data()[i] - e.data()[i]);
  return std::sqrt(sum / static_cast<double>(g.size()));
}

/// Logits of a plain forward pass.
template <class Net, class T, class Ctx>
Tensor<T, 3> forward(Model<Net, T, Ctx> const& model, View<Token const, 2> tokens,
                     typename Model<Net, T, Ctx>::Options const& options = {}) {
  Tensor<T, 3> logits{Shape<3>{tokens.extent(0), tokens.extent(1), model.dims().vocab}};
  model.forward(tokens, logits, options);
  return logits;
}

}  // namespace test
