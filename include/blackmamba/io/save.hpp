#pragma once
/// \file
/// From a model to a folder that loads again: `config.json` and `model.safetensors`, under the published names; and its gradients,
/// under the same names.

#include <filesystem>
#include <string>
#include <vector>

#include <blackmamba/io/config.hpp>
#include <blackmamba/io/load.hpp>
#include <blackmamba/io/safetensors_writer.hpp>
#include <blackmamba/model/gradients.hpp>

namespace blackmamba::io {

namespace detail {

/// Lists every tensor of the walk under its name in the file.
template <class T>
class SaveReader : public NamedWalk {
 public:
  explicit SaveReader(Naming naming) : naming_{naming} {}

  template <int Rank>
  void operator()(char const* last, View<T, Rank>& view, Shape<Rank> const&, Init, Decay) {
    add(name(last), view);
  }
  template <int Rank>
  void experts(char const* prefix, char const* last, View<T, Rank>& view, Shape<Rank> const& shape, Index, Init, Decay) {
    for (Index e = 0; e < shape[0]; ++e) add(expert_name(prefix, e, last), view[e]);
  }

  std::vector<TensorToWrite> const& tensors() const { return tensors_; }

 private:
  template <int Rank>
  void add(std::string const& published, View<T, Rank> view) {
    auto const name = naming_.in_file(published);
    tensors_.push_back(to_write(name, View<T const, Rank>{view}));
    if (name.ends_with("conv1d.weight")) tensors_.back().shape.insert(tensors_.back().shape.begin() + 1, 1);
  }

  Naming naming_;
  std::vector<TensorToWrite> tensors_;
};

}  // namespace detail

/// Writes `config` and the weights into `folder`, which is made if it is not there; each file is complete or absent.
/// Throws `file_error` if the folder cannot be written.
template <class Net, Scalar T, Context Ctx>
void save_model(Model<Net, T, Ctx>& model, ModelConfig const& config, std::filesystem::path const& folder) {
  std::error_code failure;
  std::filesystem::create_directories(folder, failure);
  if (failure) throw file_error(concat(folder.string(), ": cannot be made: ", failure.message()));
  detail::SaveReader<T> reader{Naming{config.family}};
  model.inspect(reader, [&] { write_safetensors(folder / "model.safetensors", reader.tensors()); });
  write_config(folder / "config.json", config);
}

/// Writes the gradients to a file of tensors in accumulator_t<T>, under the parameters' names in a checkpoint of the family;
/// complete or absent. Throws `file_error` if it cannot be written.
template <class Net, Scalar T, Context Ctx>
void save_gradients(Gradients<Net, T, Ctx>& gradients, ModelConfig::Family family, std::filesystem::path const& file) {
  detail::SaveReader<accumulator_t<T>> reader{Naming{family}};
  gradients.inspect(reader, [&] { write_safetensors(file, reader.tensors()); });
}

}  // namespace blackmamba::io
