#include <blackmamba/io/tensor_file.hpp>
#include <blackmamba/ops/selective_scan/backward.hpp>

#include <utility>

#include "support/data.hpp"
#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// What the published gradients are held to, as a share of their largest value.
constexpr double bound = 1e-12;

/// Files hold channels before time; operations see time first: strides, no copies.
template <class T>
View<T, 3> rows(View<T, 3> x) {
  return x.transposed(1, 2);
}
template <class T>
View<T, 4> groups(View<T, 4> x) {
  return x.transposed(2, 3).transposed(1, 2);
}

/// A tensor of a file and the gradient to compare with its published one; both empty where the file has no such input.
template <int Rank>
struct Input {
  char const* name;
  Tensor<double, Rank> value, expected, got;

  Input(io::TensorFile const& file, char const* named)
      : name{named},
        value{file.contains(named) ? file.read<double, Rank>(named) : Tensor<double, Rank>{}},
        expected{value.size() ? file.read<double, Rank>(concat("grad_", named)) : Tensor<double, Rank>{}},
        got{expected.shape()} {}

  void check() const {
    INFO(name);
    CHECK_CLOSE(verify::compare_scaled(got.view(), expected.view(), bound));
  }
};

template <class Ctx>
void check_file(Ctx const& ctx, io::TensorFile const& file) {
  Input<3> u{file, "u"}, delta{file, "delta"}, z{file, "z"};
  Input<2> A{file, "A"};
  Input<4> B{file, "B"}, C{file, "C"};
  Input<1> D{file, "D"}, delta_bias{file, "delta_bias"};
  auto const d_y = file.read<double, 3>("grad_out");
  SelectiveScanBackwardArgs<double> args{.u = rows(std::as_const(u.value).view()),
                                         .delta = rows(std::as_const(delta.value).view()),
                                         .A = A.value,
                                         .B = groups(std::as_const(B.value).view()),
                                         .C = groups(std::as_const(C.value).view()),
                                         .d_y = rows(d_y.view()),
                                         .d_u = rows(u.got.view()),
                                         .d_delta = rows(delta.got.view()),
                                         .d_A = A.got,
                                         .d_B = groups(B.got.view()),
                                         .d_C = groups(C.got.view())};
  args.delta_softplus = file.contains("delta_softplus") && file.read<double, 1>("delta_softplus")(0) != 0;
  if (z.value.size()) args.z = rows(std::as_const(z.value).view()), args.d_z = rows(z.got.view());
  if (D.value.size()) args.D = D.value, args.d_D = D.got;
  if (delta_bias.value.size()) args.delta_bias = delta_bias.value, args.d_delta_bias = delta_bias.got;
  selective_scan_backward(ctx, args);
  u.check(), delta.check(), z.check(), A.check(), B.check(), C.check(), D.check(), delta_bias.check();
}

}  // namespace

TEST_CASE("golden: the backward selective scan gives every published gradient in float64") {
  auto const paths = test::entries(test::data_folder() / "selective-scan", "case", ".safetensors");
  REQUIRE(!paths.empty());
  for (auto const& path : paths) {
    INFO(path.string());
    auto const file = io::TensorFile::open(path);
    check_file(Reference{}, file);
    check_file(Cpu{1}, file);
    check_file(Cpu{2}, file);
  }
}
