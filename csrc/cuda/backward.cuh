// The backward kernels of RoIAlign on CUDA, which gather the gradient of each pixel from the bins
// that read it.
//
// Neighbouring threads own neighbouring channels of one pixel, so they read the same lists of the
// plan and neighbouring elements. This needs channels that are innermost in memory: `pack_kernel`
// copies the gradients of the bins into such packs, and `unpack_kernel` writes the sums of the
// pixels in the layout and the type of the result.
#pragma once

#include "cuda/plan.cuh"

namespace mrcnn_plugin::cuda {

constexpr int kPack = 4;  // channels of a thread
static_assert(kChannels % kPack == 0);

/// kPack adjacent channels, which a thread loads at once.
template <typename T>
struct alignas(kPack * sizeof(T) < 16 ? kPack * sizeof(T) : 16) Pack {
  T values[kPack];
};

/// The packs of a tensor (n, height, width, packs * kPack).
template <typename T>
struct Packs {
  using Element = Pack<std::remove_const_t<T>>;
  T* data;
  int64_t stride[3];  // of n, y, x in elements

  __device__ auto* at(int64_t n, int64_t y, int64_t x, int64_t pack) const {
    using At = std::conditional_t<std::is_const_v<T>, const Element, Element>;
    return reinterpret_cast<At*>(data + n * stride[0] + y * stride[1] + x * stride[2] +
                                 pack * kPack);
  }
};

/// The number of packs of C channels, padded to full cells.
inline int64_t packs_of(int64_t channels) {
  return (channels + kChannels - 1) / kChannels * (kChannels / kPack);
}

template <typename T>
Packs<T> make_packs(Scratch& scratch, int64_t n, int64_t height, int64_t width, int64_t channels) {
  const int64_t x = packs_of(channels) * kPack, y = width * x;
  return {scratch.take<T>(n * height * y), {height * y, y, x}};
}

/// Whether the elements of a tensor already are packs.
template <typename T>
bool is_packed(const View<T>& view, int64_t channels) {
  bool aligned = reinterpret_cast<uintptr_t>(view.data) % alignof(Pack<T>) == 0;
  for (const int d : {0, 2, 3}) aligned = aligned && view.stride[d] % kPack == 0;
  return aligned && view.stride[1] == 1 && channels % kChannels == 0;
}

template <typename T>
Packs<T> as_packs(const View<T>& view) {
  return {view.data, {view.stride[0], view.stride[2], view.stride[3]}};
}

/// The positions and the channels of a tensor (n, channels, height, width) among threads, which own
/// kChannels adjacent channels of one position each. A warp has 8 positions of 4 such tiles, so
/// that it accesses whole sectors of 32 bytes on the side where the width is innermost in memory,
/// and 128 adjacent bytes on the side of the packs.
struct PackTiling {
  int64_t n, channels, height, width, tiles;

  static constexpr int64_t kPositions = 8, kTiles = 4;

  explicit PackTiling(const Tensor& t)
      : n(t.size(0)),
        channels(t.size(1)),
        height(t.size(2)),
        width(t.size(3)),
        tiles((channels + kChannels - 1) / kChannels) {}

  MRCNN_HOST_DEVICE int64_t columns() const {
    return (height * width + kPositions - 1) / kPositions;
  }
  MRCNN_HOST_DEVICE int64_t rows() const { return (tiles + kTiles - 1) / kTiles; }
  MRCNN_HOST_DEVICE int64_t threads() const {
    return n * columns() * rows() * (kPositions * kTiles);
  }
};

struct PackCell {
  int64_t n, y, x, tile;
  int channels;  // 0: the thread has nothing to do

  __device__ PackCell(int64_t thread, const PackTiling& tiling) : channels(0) {
    Digits digits(thread, tiling.threads());
    const int64_t in_columns = digits.next(PackTiling::kPositions);
    const int64_t in_rows = digits.next(PackTiling::kTiles);
    const int64_t position = digits.next(tiling.columns()) * PackTiling::kPositions + in_columns;
    tile = digits.next(tiling.rows()) * PackTiling::kTiles + in_rows;
    n = digits.next(tiling.n);
    y = position / tiling.width, x = position % tiling.width;
    if (n >= tiling.n || y >= tiling.height || tile >= tiling.tiles) return;
    const int64_t left = tiling.channels - tile * kChannels;
    channels = static_cast<int>(left < kChannels ? left : kChannels);
  }
};

/// Copies the bins of those RoIs that are on the map. The padding gets copies of another channel.
template <typename T>
__global__ void pack_kernel(View<const T> from, const Target* targets, PackTiling tiling,
                            Packs<T> to) {
  const PackCell cell(thread_index(), tiling);
  if (cell.channels == 0 || targets[cell.n].image < 0) return;
  const T* const first = &from(cell.n, cell.tile * kChannels, cell.y, cell.x);
  T values[kChannels];
#pragma unroll
  for (int k = 0; k < kChannels; ++k) values[k] = first[k < cell.channels ? k * from.stride[1] : 0];
#pragma unroll
  for (int p = 0; p < kChannels / kPack; ++p) {
    Pack<T> pack;
#pragma unroll
    for (int k = 0; k < kPack; ++k) pack.values[k] = values[p * kPack + k];
    *to.at(cell.n, cell.y, cell.x, cell.tile * (kChannels / kPack) + p) = pack;
  }
}

template <typename acc_t, typename T>
__global__ void unpack_kernel(Packs<acc_t> from, PackTiling tiling, View<T> to) {
  const PackCell cell(thread_index(), tiling);
  if (cell.channels == 0) return;
  T* const first = &to(cell.n, cell.tile * kChannels, cell.y, cell.x);
#pragma unroll
  for (int p = 0; p < kChannels / kPack; ++p) {
    const Pack<acc_t> pack = *from.at(cell.n, cell.y, cell.x, cell.tile * (kChannels / kPack) + p);
#pragma unroll
    for (int k = 0; k < kPack; ++k) {
      const int channel = p * kPack + k;
      if (channel < cell.channels) first[channel * to.stride[1]] = static_cast<T>(pack.values[k]);
    }
  }
}

/// The quads of the pixels (n, height, width) and their packs among threads. A warp has packs of
/// one quad, if there are as many, and the next warp those of the neighbour, which reads the same
/// bins.
struct QuadTiling {
  int64_t n, height, width, packs, lanes;

  QuadTiling(int64_t n, int64_t height, int64_t width, int64_t packs)
      : n(n), height(height), width(width), packs(packs), lanes(packs < 32 ? packs : 32) {}

  MRCNN_HOST_DEVICE int64_t quads() const { return (width + kQuad - 1) / kQuad; }
  MRCNN_HOST_DEVICE int64_t groups() const { return (packs + lanes - 1) / lanes; }
  MRCNN_HOST_DEVICE int64_t threads() const { return n * height * groups() * quads() * lanes; }
};

struct QuadCell {
  int64_t n, y, quad, pack;

  __device__ QuadCell(int64_t thread, const QuadTiling& tiling) {
    Digits digits(thread, tiling.threads());
    const int64_t lane = digits.next(tiling.lanes);
    quad = digits.next(tiling.quads());
    pack = digits.next(tiling.groups()) * tiling.lanes + lane;
    y = digits.next(tiling.height);
    n = digits.next(tiling.n);
  }
};

/// RoIs of a plan: those of the words [first, end) of its masks.
struct Words {
  int64_t first, end;
};

/// Adds what add(y, x, r, sums) adds for each RoI to the sums of a quad, or starts from zero. y and
/// x are the lists of readers; r counts from the first RoI of the words.
template <typename acc_t, typename Add>
__device__ void gather(const PixelPlan<acc_t>& plan, const QuadTiling& tiling, Words words,
                       bool start, const Packs<acc_t>& result, const Add& add) {
  const int64_t thread = thread_index();
  if (thread >= tiling.threads()) return;
  const QuadCell cell(thread, tiling);
  if (cell.pack >= tiling.packs) return;
  const auto each_pixel = [&](const auto& use) {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      const int64_t x = cell.quad * kQuad + k;
      if (x < tiling.width) use(k, result.at(cell.n, cell.y, x, cell.pack));
    }
  };
  Pack<acc_t> sums[kQuad] = {};
  bool changed = false;
  const int64_t segment = (cell.n * tiling.height + cell.y) * tiling.quads() + cell.quad;
  plan.each_roi(segment, words.first, words.end, [&](int64_t r) {
    const auto y = plan.y.list(r, cell.y);
    const auto x = plan.x.list(r, cell.quad);
    if (y.count == 0 || x.count == 0) return;
    if (!changed && !start) each_pixel([&](int k, auto* at) { sums[k] = *at; });
    changed = true;
    add(y, x, r - words.first * kMaskBits, cell.pack, sums);
  });
  if (start || changed) each_pixel([&](int k, auto* at) { *at = sums[k]; });
}

template <typename T>
__global__ void average_backward_kernel(Packs<const T> grads, PixelPlan<accumulate_t<T>> plan,
                                        QuadTiling tiling, Words words, bool start,
                                        Packs<accumulate_t<T>> result) {
  using acc_t = accumulate_t<T>;
  const auto add = [&](const auto& y, const auto& x, int64_t r, int64_t pack, Pack<acc_t>* sums) {
    for (int32_t j = 0; j < x.count; ++j) {
      const auto x_reader = x.entries[j];
      Pack<acc_t> column{};
      for (int32_t i = 0; i < y.count; ++i) {
        const auto y_reader = y.entries[i];
        const Pack<T> grad = *grads.at(r, y_reader.at, x_reader.at, pack);
#pragma unroll
        for (int c = 0; c < kPack; ++c) {
          column.values[c] = multiply_add(y_reader.weights[0], static_cast<acc_t>(grad.values[c]),
                                          column.values[c]);
        }
      }
#pragma unroll
      for (int k = 0; k < kQuad; ++k) {
        if (x_reader.weights[k] == 0) continue;  // not a reader of this pixel, whatever it holds
#pragma unroll
        for (int c = 0; c < kPack; ++c) {
          sums[k].values[c] =
              multiply_add(x_reader.weights[k], column.values[c], sums[k].values[c]);
        }
      }
    }
  };
  gather(plan, tiling, words, start, result, add);
}

/// A pixel gets a share of the gradient of each bin whose maximum is a sample next to the pixel.
template <typename T>
__global__ void maximum_backward_kernel(Packs<const T> grads, Packs<const int32_t> argmax,
                                        PixelPlan<accumulate_t<T>> plan, QuadTiling tiling,
                                        Words words, bool start, Packs<accumulate_t<T>> result) {
  using acc_t = accumulate_t<T>;
  const auto add = [&](const auto& y, const auto& x, int64_t r, int64_t pack, Pack<acc_t>* sums) {
    for (int32_t i = 0; i < y.count; ++i) {
      const auto y_reader = y.entries[i];
      for (int32_t j = 0; j < x.count; ++j) {
        const auto x_reader = x.entries[j];
        const int32_t p = y_reader.at >> kArgmaxBits, q = x_reader.at >> kArgmaxBits;
        const int32_t index = reader(y_reader.at & kMostSamplesMax, x_reader.at & kMostSamplesMax);
        const Pack<int32_t> winner = *argmax.at(r, p, q, pack);
        const Pack<T> grad = *grads.at(r, p, q, pack);
#pragma unroll
        for (int c = 0; c < kPack; ++c) {
          if (winner.values[c] != index) continue;
          const acc_t of_bin = y_reader.weights[0] * static_cast<acc_t>(grad.values[c]);
#pragma unroll
          for (int k = 0; k < kQuad; ++k) {
            if (x_reader.weights[k] == 0) continue;
            sums[k].values[c] = multiply_add(x_reader.weights[k], of_bin, sums[k].values[c]);
          }
        }
      }
    }
  };
  gather(plan, tiling, words, start, result, add);
}

}  // namespace mrcnn_plugin::cuda
