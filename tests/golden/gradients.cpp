#include <blackmamba/io/save.hpp>
#include <blackmamba/model/gradients.hpp>

#include "io/files.hpp"
#include "support/golden_model.hpp"

using namespace blackmamba;

namespace {

/// Every tensor of a walk by name, flat.
struct ListReader : NamedWalk {
  std::vector<std::pair<std::string, View<double const, 1>>> tensors{};

  template <int Rank>
  void operator()(char const* last, View<double, Rank>& view, Shape<Rank> const&, Init, Decay) {
    tensors.emplace_back(name(last), view.reshaped(Shape<1>{view.size()}));
  }
  template <int Rank>
  void experts(char const* prefix, char const* last, View<double, Rank>& view, Shape<Rank> const& shape, Index, Init, Decay) {
    for (Index e = 0; e < shape[0]; ++e)
      tensors.emplace_back(expert_name(prefix, e, last), view[e].reshaped(Shape<1>{view[e].size()}));
  }
};

/// A tensor of any rank, flat.
Tensor<double, 1> values_of(io::TensorFile const& file, std::string const& name) {
  auto const& shape = file.info(name).shape;
  auto const flat = [](auto const& tensor) {
    Tensor<double, 1> out{Shape<1>{tensor.size()}};
    std::copy(tensor.begin(), tensor.end(), out.begin());
    return out;
  };
  if (shape.size() == 1) return flat(file.read<double, 1>(name));
  if (shape.size() == 2) return flat(file.read<double, 2>(name));
  return flat(file.read<double, 3>(name));
}

template <class Ctx>
void compare_with_autograd(Ctx const& ctx, Keep keep) {
  for (auto const& folder : test::golden_folders("blackmamba-")) {
    if (!test::fs::exists(folder / "gradients.safetensors")) continue;
    INFO(folder.string());
    auto const expected = io::TensorFile::open(folder / "expected.safetensors");
    auto const ids = expected.read<Token, 2>("input_ids");
    auto const targets = expected.read<Token, 2>("target_ids");
    test::with_golden_model<double>(folder, test::containers(folder).front(), ctx, [&]<class M>(M& model) {
      Gradients<typename M::network, double, Ctx> gradients{model, keep};
      auto const report = gradients.add(ids, targets, {.mode = Mode::inference});
      CHECK(std::fabs(report.loss() - expected.read<double, 1>("loss")(0)) <= 1e-10);

      auto const autograd = io::TensorFile::open(folder / "gradients.safetensors");
      ListReader list;
      gradients.walk(list);
      CHECK(list.tensors.size() == autograd.names().size());
      test::Folder const written;
      io::save_gradients(gradients, io::ModelConfig::Family::blackmamba, written / "gradients.safetensors");
      auto const file = io::TensorFile::open(written / "gradients.safetensors");
      CHECK(file.names().size() == list.tensors.size());
      for (auto const& [name, got] : list.tensors) {
        INFO("d_", name);
        auto const back = values_of(file, name);
        CHECK(std::equal(back.begin(), back.end(), got.data()));
        auto const wanted = values_of(autograd, name == "embedding.word_embeddings.weight" ? "embedding.weight" : name);
        CHECK_CLOSE(verify::compare_scaled(got, wanted.view(), 1e-9));
      }
    });
  }
}

}  // namespace

TEST_CASE("golden: the gradient of the whole model is autograd's, by every parameter") {
  compare_with_autograd(Reference{}, Keep::activations);
  compare_with_autograd(Cpu{2}, Keep::activations);
}

TEST_CASE("golden: it is the same when activations are computed again") {
  compare_with_autograd(Reference{}, Keep::inputs);
  compare_with_autograd(Cpu{1}, Keep::inputs);
}
