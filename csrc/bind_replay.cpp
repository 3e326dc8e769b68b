// philox and replay_parameters: check every argument, let go of the interpreter lock, call replay.hpp.
#include "checks.hpp"
#include "replay.hpp"

namespace vqlabel {
namespace {

constexpr auto kTableColumns = static_cast<py::ssize_t>(kTableSteps) + 1;
constexpr py::ssize_t kFour = 4;

py::array philox_array(const py::object& counters_in, uint64_t key) {
    const py::array counters = checked(counters_in, "counters", "uint32", 2);
    if (counters.shape(1) != 4) throw py::value_error("counters must have shape (n, 4)");
    py::array_t<uint32_t> draws({counters.shape(0), kFour});
    const auto* from = static_cast<const Draws*>(counters.data());
    auto* to = reinterpret_cast<Draws*>(draws.mutable_data());
    py::gil_scoped_release unlocked;
    for (py::ssize_t i = 0; i < counters.shape(0); ++i) to[i] = philox(from[i], key);
    return std::move(draws);
}

// The numbers of a ReplayRecipe; `tables` must outlive it.
ReplayLaw law_of(const py::object& recipe, const py::array& tables) {
    if (tables.shape(0) != 3 || tables.shape(1) != kTableColumns) {
        throw py::value_error("tables must have shape (3, " + to_string(kTableColumns) + ")");
    }
    const auto number = [&](const char* name) { return recipe.attr(name).cast<double>(); };
    const auto scale = recipe.attr("scale").cast<std::pair<double, double>>();
    const auto* table = static_cast<const double*>(tables.data());
    ReplayLaw law{};
    law.seed = recipe.attr("seed").cast<uint64_t>();
    law.images = recipe.attr("images").cast<int64_t>();
    law.size = recipe.attr("size").cast<int32_t>();
    law.scale_low = scale.first;
    law.scale_high = scale.second;
    law.flip = number("flip");
    law.cutmix = number("cutmix");
    law.mixup = number("mixup");
    law.ratio = table;
    law.cutmix_share = table + kTableColumns;
    law.mixup_share = table + 2 * kTableColumns;
    return law;
}

py::tuple replay_parameters(const py::object& recipe, const py::object& epochs_in, const py::object& images_in,
                            const py::object& mixers_in, const py::object& sizes_in) {
    const py::array tables = checked(recipe.attr("tables"), "tables", "float64", 2);
    const ReplayLaw law = law_of(recipe, tables);
    const py::array epochs = checked(epochs_in, "epochs", "int64", 1);
    const py::array images = checked(images_in, "images", "int64", 1);
    const py::array mixers = checked(mixers_in, "mixers", "int64", 1);
    const py::array sizes = checked(sizes_in, "sizes", "int32", 2);
    const py::ssize_t rows = images.shape(0);
    if (epochs.shape(0) != rows || mixers.shape(0) != rows || sizes.shape(0) != rows || sizes.shape(1) != 2) {
        throw py::value_error("epochs, images, mixers and sizes must have the same number of rows, sizes 2 columns");
    }
    py::array_t<int32_t> crops({rows, kFour}), cuts({rows, kFour});
    py::array_t<bool> flips(rows);
    py::array_t<uint8_t> kinds(rows);
    py::array_t<int64_t> partners(rows);
    py::array_t<double> shares(rows);
    const Rows in = {static_cast<const int64_t*>(epochs.data()), static_cast<const int64_t*>(images.data()),
                     static_cast<const int64_t*>(mixers.data()), static_cast<const int32_t*>(sizes.data())};
    const Views out = {reinterpret_cast<Box*>(crops.mutable_data()),
                       flips.mutable_data(),
                       kinds.mutable_data(),
                       partners.mutable_data(),
                       shares.mutable_data(),
                       reinterpret_cast<Box*>(cuts.mutable_data())};
    {
        py::gil_scoped_release unlocked;
        draw_views(law, in, static_cast<size_t>(rows), out);
    }
    return py::make_tuple(crops, flips, kinds, partners, shares, cuts);
}

}  // namespace

void bind_replay(py::module_& m) {
    m.def("philox", &philox_array, py::arg("counters"), py::arg("key"));
    m.def("replay_parameters", &replay_parameters, py::arg("recipe"), py::arg("epochs"), py::arg("images"),
          py::arg("mixers"), py::arg("sizes"));
}

}  // namespace vqlabel
