#include <blackmamba/io/tensor_file.hpp>
#include <blackmamba/ops/selective_scan/selective_scan.hpp>
#include <blackmamba/ops/selective_scan_step/selective_scan_step.hpp>

#include "support/data.hpp"
#include "support/op_test.hpp"

using namespace blackmamba;

namespace {

/// What the published results are held to, as a share of their largest value.
constexpr double bound = 1e-12;

/// A file with channels before time, seen with time first: strides, no copies.
struct Case {
  Tensor<double, 3> u, delta, z, out, last_state;
  Tensor<double, 4> B, C;
  Tensor<double, 2> A;
  Tensor<double, 1> D, delta_bias;
  bool softplus;

  explicit Case(io::TensorFile const& file)
      : u{file.read<double, 3>("u")},
        delta{file.read<double, 3>("delta")},
        z{optional<3>(file, "z")},
        out{file.read<double, 3>("out")},
        last_state{file.read<double, 3>("last_state")},
        B{file.read<double, 4>("B")},
        C{file.read<double, 4>("C")},
        A{file.read<double, 2>("A")},
        D{optional<1>(file, "D")},
        delta_bias{optional<1>(file, "delta_bias")},
        softplus{file.contains("delta_softplus") && file.read<double, 1>("delta_softplus")(0) != 0} {}

  SelectiveScanArgs<double> args() const {
    auto const rows = [](Tensor<double, 3> const& x) { return x.view().transposed(1, 2); };
    auto const groups = [](Tensor<double, 4> const& x) { return x.view().transposed(2, 3).transposed(1, 2); };
    SelectiveScanArgs<double> a{
        .u = rows(u), .delta = rows(delta), .A = A, .B = groups(B), .C = groups(C), .delta_softplus = softplus};
    if (z.size()) a.z = rows(z);
    if (D.size()) a.D = D;
    if (delta_bias.size()) a.delta_bias = delta_bias;
    return a;
  }

 private:
  template <int Rank>
  static Tensor<double, Rank> optional(io::TensorFile const& file, char const* name) {
    return file.contains(name) ? file.read<double, Rank>(name) : Tensor<double, Rank>{};
  }
};

/// Calls `body` with every case of the folder, on every context.
template <class Body>
void for_each_case(Body const& body) {
  auto const paths = test::entries(test::data_folder() / "selective-scan", "case", ".safetensors");
  REQUIRE(!paths.empty());
  for (auto const& path : paths) {
    INFO(path.string());
    Case const golden{io::TensorFile::open(path)};
    body(Reference{}, golden);
    body(Cpu{1}, golden);
    body(Cpu{2}, golden);
  }
}

}  // namespace

TEST_CASE("golden: the selective scan gives every published output and last state in float64") {
  for_each_case([](auto const& ctx, Case const& golden) {
    Tensor<double, 3> y{golden.out.shape()}, last{golden.last_state.shape()};
    auto args = golden.args();
    args.y = y.view().transposed(1, 2);
    args.last_state = last;
    selective_scan(ctx, args);
    CHECK_CLOSE(verify::compare_scaled(y.view(), golden.out.view(), bound));
    CHECK_CLOSE(verify::compare_scaled(last.view(), golden.last_state.view(), bound));
  });
}

TEST_CASE("golden: steps of the selective scan give every published output and last state in float64") {
  for_each_case([](auto const& ctx, Case const& golden) {
    Tensor<double, 3> y{golden.out.shape()}, state{golden.last_state.shape()};
    auto const args = golden.args();
    for (Index t = 0; t < args.u.extent(1); ++t) {
      auto const now = [t](auto view) { return view.transposed(0, 1)[t]; };
      SelectiveScanStepArgs<double> step{.u = now(args.u),
                                         .delta = now(args.delta),
                                         .A = args.A,
                                         .B = now(args.B),
                                         .C = now(args.C),
                                         .D = args.D,
                                         .delta_bias = args.delta_bias,
                                         .delta_softplus = args.delta_softplus,
                                         .state = state,
                                         .y = now(y.view().transposed(1, 2))};
      if (args.z) step.z = now(args.z);
      selective_scan_step(ctx, step);
    }
    CHECK_CLOSE(verify::compare_scaled(y.view(), golden.out.view(), bound));
    CHECK_CLOSE(verify::compare_scaled(state.view(), golden.last_state.view(), bound));
  });
}
