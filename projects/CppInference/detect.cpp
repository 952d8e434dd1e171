// Finds the instances of an image with a package of `mrcnn export --format aoti`, without Python.
//
//     detect model.pt2 image.ppm _C.abi3.so
//
// The image is a binary PPM (P6). The last argument is the library with the ops of mrcnn_plugin.
// Prints a line per instance: class, score and box (x1, y1, x2, y2) in pixels of the image.
#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <fstream>
#include <regex>
#include <stdexcept>

// The image as uint8 (3, height, width), RGB.
at::Tensor read_ppm(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, largest = 0;
  file >> magic >> width >> height >> largest;
  file.get();
  if (magic != "P6" || largest != 255) throw std::runtime_error(std::string(path) + " is no P6");
  auto pixels = at::empty({height, width, 3}, at::kByte);
  file.read(reinterpret_cast<char*>(pixels.data_ptr<uint8_t>()), pixels.numel());
  if (!file) throw std::runtime_error(std::string(path) + " is truncated");
  return pixels.permute({2, 0, 1});
}

// (new_size, old_size) weights of the pixels of a row, in units of 2^-22.
at::Tensor triangle_weights(int64_t old_size, int64_t new_size) {
  double scale = double(old_size) / new_size, reach = std::max(scale, 1.0);
  auto centers = ((at::arange(new_size, at::kDouble) + 0.5) * scale).unsqueeze(1);
  auto pixels = at::arange(old_size, at::kDouble);
  auto weights = (1 - ((pixels + 0.5 - centers) / reach).abs()).clamp_min(0);
  auto first = (centers - reach + 0.5).floor(), last = (centers + reach + 0.5).floor();
  weights = weights * (pixels.ge(first) & pixels.lt(last));
  return (weights / weights.sum(1, true) * (1 << 22) + 0.5).floor();
}

// What Pillow's resize(BILINEAR) computes, which the model was trained with.
at::Tensor resize(const at::Tensor& image, int64_t height, int64_t width) {
  auto round = [](const at::Tensor& sum) {
    return ((sum + (1 << 21)) / (1 << 22)).floor().clamp(0, 255);
  };
  auto wide = image.to(at::kDouble).matmul(triangle_weights(image.size(2), width).t());
  return round(triangle_weights(image.size(1), height).matmul(round(wide))).to(at::kByte);
}

double number(const std::string& json, const std::string& key) {
  auto at = json.find("\"" + key + "\": ");
  if (at == std::string::npos) throw std::runtime_error("the package has no " + key);
  return std::stod(json.substr(at + key.size() + 4));
}

int main(int argc, char** argv) try {
  if (argc != 4) throw std::runtime_error("usage: detect model.pt2 image.ppm _C.abi3.so");
  if (!dlopen(argv[3], RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  torch::inductor::AOTIModelPackageLoader model(argv[1]);
  auto about = model.get_metadata();
  auto& preprocessing = about["preprocessing"];

  auto image = read_ppm(argv[2]);
  double height = image.size(1), width = image.size(2), shorter = std::min(height, width);
  double shortest = number(preprocessing, "shortest_side");
  double new_height = height == shorter ? shortest : height * (shortest / shorter);
  double new_width = width == shorter ? shortest : width * (shortest / shorter);
  double longest = number(preprocessing, "longest_side");
  double limit = std::min(1.0, longest / std::max(new_height, new_width));
  auto resized = resize(image, new_height * limit + 0.5, new_width * limit + 0.5);
  if (preprocessing.find("\"BGR\"") != std::string::npos) resized = resized.flip(0);

  auto outputs = model.run({resized.contiguous()});
  double x = width / resized.size(2), y = height / resized.size(1);
  auto boxes = outputs[0] * at::tensor({x, y, x, y}, at::kFloat);
  std::vector<std::string> names;
  std::regex quoted("\"((?:[^\"\\\\]|\\\\.)*)\"");
  std::sregex_iterator name(about["class_names"].begin(), about["class_names"].end(), quoted), end;
  for (; name != end; ++name) names.push_back((*name)[1]);
  for (int64_t i = 0; i < boxes.size(0); ++i) {
    auto box = boxes[i].contiguous();
    const float* corner = box.const_data_ptr<float>();
    std::printf("%s %.3f [%.1f, %.1f, %.1f, %.1f]\n",
                names.at(outputs[2][i].item<int64_t>()).c_str(), outputs[1][i].item<float>(),
                corner[0], corner[1], corner[2], corner[3]);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "detect: %s\n", error.what());
  return 1;
}
