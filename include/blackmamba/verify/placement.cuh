#pragma once
/// \file
/// A problem's tensors on a GPU while an operation runs on them.

#include <functional>
#include <vector>

#include <blackmamba/core/cuda/tensor.cuh>
#include <blackmamba/verify/placement.hpp>

namespace blackmamba::verify {

template <std::derived_from<Cuda> Ctx>
struct Placement<Ctx> {
  explicit Placement(Cuda const& ctx) : ctx_{ctx} {}

  template <class T, int Rank>
  View<T const, Rank> in(Tensor<T, Rank> const& tensor, bool present = true) {
    return present ? keep(tensor) : View<T const, Rank>{};
  }

  template <class T, int Rank>
  View<T, Rank> out(Tensor<T, Rank>& tensor, bool present = true) {
    if (!present) return {};
    auto const there = keep(tensor);
    back_.push_back([this, there, &tensor] {
      auto const copy = to_host(ctx_, there);
      std::copy(copy.begin(), copy.end(), tensor.begin());
    });
    return there;
  }

  void finish() {
    ctx_.synchronize();
    for (auto const& bring : back_) bring();
    back_.clear();
  }

 private:
  template <class T, int Rank>
  View<T, Rank> keep(Tensor<T, Rank> const& tensor) {
    auto const there = std::make_shared<DeviceTensor<T, Rank>>(to_device(ctx_, tensor));
    kept_.push_back(there);
    return there->view();
  }

  Cuda ctx_;
  std::vector<std::shared_ptr<void>> kept_;
  std::vector<std::function<void()>> back_;
};

}  // namespace blackmamba::verify
