// The maximum of RoIAlign and its backward, on one slab. Included by roi_align_isa.h alone, inside
// its namespace.

/// row = the linear interpolation between two rows of the input.
template <typename acc_t, int lanes>
MRCNN_TARGET void interpolate_row(const Sample<acc_t>& sample, const Grid<const acc_t>& in,
                                  acc_t* row) {
  const Term<acc_t> terms[] = {{sample.lo, sample.w_lo}, {sample.hi, sample.w_hi}};
  if (sample.w_hi == 0) {
    sum_rows<1, acc_t, lanes>(terms, in, row, false);
  } else {
    sum_rows<2, acc_t, lanes>(terms, in, row, false);
  }
  Lanes<acc_t, lanes>::of(0).store(row + in.width * lanes);
}

/// The greatest sample so far of one bin, in every lane: the first of equals; a NaN over any
/// number.
template <typename acc_t, int lanes>
struct Best {
  Lanes<acc_t, lanes> value;
  Lanes<index_t<acc_t>, lanes> index;
  using L = Lanes<acc_t, lanes>;

  MRCNN_INLINE void offer(const L& candidate, index_t<acc_t> at) {
#pragma GCC unroll 16
    for (int i = 0; i < L::kCount; ++i) {
      const auto old = value.v[i], v = candidate.v[i];
      const auto take = ~(v <= old) & (old == old);
      value.v[i] = take ? v : old;
      index.v[i] = take ? splat<decltype(index.v[0] + index.v[0])>(at) : index.v[i];
    }
  }
  /// Samples off the map count as zero and have no index.
  MRCNN_INLINE void offer_zero() {
#pragma GCC unroll 16
    for (int i = 0; i < L::kCount; ++i) {
      const auto below = value.v[i] < 0;
      value.v[i] = below ? decltype(value.v[i] + value.v[i]){} : value.v[i];
      index.v[i] |= below;  // all bits: -1
    }
  }
};

/// One bin over some of its sample rows. `first`: none of its samples has been seen.
template <typename acc_t, int lanes>
MRCNN_INLINE void maximum_bin(const Sample<acc_t>* sy, int64_t rows, const Sample<acc_t>* sx,
                              int64_t columns, const acc_t* scratch, int64_t scratch_stride,
                              bool first, Best<acc_t, lanes>& best) {
  for (int64_t s = 0; s < rows; ++s, scratch += scratch_stride) {
    for (int64_t t = 0; t < columns; ++t) {
      auto value = Lanes<acc_t, lanes>::scaled(sx[t].w_lo, scratch + sx[t].lo * lanes);
      value.add_scaled(sx[t].w_hi, scratch + sx[t].hi * lanes);
      const auto index = static_cast<index_t<acc_t>>(sy[s].index << kArgmaxBits | sx[t].index);
      if (first) {
        best = {value, Lanes<index_t<acc_t>, lanes>::of(index)};
        first = false;
      } else {
        best.offer(value, index);
      }
    }
  }
}

template <typename acc_t, int lanes>
MRCNN_TARGET void maximum(const Samples<acc_t>& y, const Samples<acc_t>& x,
                          const Grid<const acc_t>& in, acc_t* scratch, acc_t* out,
                          index_t<acc_t>* argmax) {
  using L = Lanes<acc_t, lanes>;
  using I = Lanes<index_t<acc_t>, lanes>;
  const int64_t scratch_stride = (in.width + 1) * lanes;
  for (int64_t p = 0; p < y.count; ++p) {
    const int64_t end = y.starts[p + 1];
    int64_t begin = y.starts[p];
    bool first = true;
    do {  // once even for a bin without samples
      const int64_t rows = end - begin < kScratchRows ? end - begin : kScratchRows;
      for (int64_t s = 0; s < rows; ++s) {
        interpolate_row<acc_t, lanes>(y.samples[begin + s], in, scratch + s * scratch_stride);
      }
      for (int64_t q = 0; q < x.count; ++q) {
        const int64_t bin = (p * x.count + q) * lanes;
        Best<acc_t, lanes> best{L::of(0), I::of(-1)};
        if (!first) best = {L::load(out + bin), I::load(argmax + bin)};
        maximum_bin<acc_t, lanes>(y.samples + begin, rows, x.samples + x.starts[q],
                                  x.starts[q + 1] - x.starts[q], scratch, scratch_stride, first,
                                  best);
        if (begin + rows == end && (y.cut[p] || x.cut[q])) best.offer_zero();
        best.value.store(out + bin);
        best.index.store(argmax + bin);
      }
      begin += rows;
      first = false;
    } while (begin < end);
  }
}

// ---- Backward ----------------------------------------------------------------------------------

/// to += weight * row, for rows of `width` pixels.
template <typename acc_t, int lanes>
MRCNN_INLINE void add_row(acc_t weight, const acc_t* row, int64_t width, acc_t* to) {
  for (int64_t i = 0; i < width * lanes; i += lanes) {
    auto sum = Lanes<acc_t, lanes>::load(to + i);
    sum.add_scaled(weight, row + i);
    sum.store(to + i);
  }
}

/// Every sample takes the gradient of the lanes that it won. Each row of samples is gathered into
/// one row of the map, then that is added to the two it lies between.
template <typename acc_t, int lanes>
MRCNN_TARGET void maximum_backward_dense(const Samples<acc_t>& y, const Samples<acc_t>& x,
                                         const acc_t* grad_out, const index_t<acc_t>* argmax,
                                         acc_t* row, const Grid<acc_t>& grad) {
  using L = Lanes<acc_t, lanes>;
  using I = Lanes<index_t<acc_t>, lanes>;
  for (int64_t p = 0; p < y.count; ++p) {
    for (int64_t s = y.starts[p]; s < y.starts[p + 1]; ++s) {
      for (int64_t i = 0; i <= grad.width; ++i) L::of(0).store(row + i * lanes);
      for (int64_t q = 0; q < x.count; ++q) {
        const int64_t bin = (p * x.count + q) * lanes;
        const auto g = L::load(grad_out + bin);
        const auto winner = I::load(argmax + bin);
        for (int64_t t = x.starts[q]; t < x.starts[q + 1]; ++t) {
          const Sample<acc_t>& sx = x.samples[t];
          const auto index =
              static_cast<index_t<acc_t>>(y.samples[s].index << kArgmaxBits | sx.index);
          L won;
#pragma GCC unroll 16
          for (int i = 0; i < L::kCount; ++i) {
            won.v[i] = winner.v[i] == index ? g.v[i] : typename L::V{};
          }
          auto sum = L::load(row + sx.lo * lanes);
          sum.add_scaled(sx.w_lo, won);
          sum.store(row + sx.lo * lanes);
          sum = L::load(row + sx.hi * lanes);
          sum.add_scaled(sx.w_hi, won);
          sum.store(row + sx.hi * lanes);
        }
      }
      const Sample<acc_t>& sy = y.samples[s];
      add_row<acc_t, lanes>(sy.w_lo, row, grad.width, grad.data + sy.lo * grad.row_stride);
      if (sy.w_hi == 0) continue;
      add_row<acc_t, lanes>(sy.w_hi, row, grad.width, grad.data + sy.hi * grad.row_stride);
    }
  }
}

template <typename acc_t>
MRCNN_TARGET const Sample<acc_t>* find_sample(const Samples<acc_t>& axis, int64_t bin,
                                              int64_t index) {
  for (int64_t s = axis.starts[bin]; s < axis.starts[bin + 1]; ++s) {
    if (axis.samples[s].index == index) return &axis.samples[s];
  }
  return nullptr;
}

/// Bins of very many samples: every lane looks up the one that it won.
template <typename acc_t, int lanes>
MRCNN_TARGET void maximum_backward_sparse(const Samples<acc_t>& y, const Samples<acc_t>& x,
                                          const acc_t* grad_out, const index_t<acc_t>* argmax,
                                          const Grid<acc_t>& grad) {
  for (int64_t p = 0; p < y.count; ++p) {
    for (int64_t q = 0; q < x.count; ++q, grad_out += lanes, argmax += lanes) {
      for (int64_t lane = 0; lane < lanes; ++lane) {
        if (argmax[lane] < 0) continue;
        const auto* sy = find_sample(y, p, argmax[lane] >> kArgmaxBits);
        const auto* sx = find_sample(x, q, argmax[lane] & kMostSamplesMax);
        if (sy == nullptr || sx == nullptr) continue;
        const auto add = [&](int64_t row, acc_t w_row) MRCNN_TARGET {
          acc_t* to = grad.data + row * grad.row_stride + lane;
          to[sx->lo * lanes] += w_row * sx->w_lo * grad_out[lane];
          if (sx->w_hi != 0) to[sx->hi * lanes] += w_row * sx->w_hi * grad_out[lane];
        };
        add(sy->lo, sy->w_lo);
        if (sy->w_hi != 0) add(sy->hi, sy->w_hi);
      }
    }
  }
}

template <typename acc_t, int lanes>
MRCNN_TARGET void maximum_backward(const Samples<acc_t>& y, const Samples<acc_t>& x,
                                   const acc_t* grad_out, const index_t<acc_t>* argmax,
                                   acc_t* scratch, const Grid<acc_t>& grad) {
  constexpr int64_t kDense = 2 * lanes;  // samples a bin: an estimate of where the other is faster
  if (y.most * x.most <= kDense) {
    maximum_backward_dense<acc_t, lanes>(y, x, grad_out, argmax, scratch, grad);
  } else {
    maximum_backward_sparse<acc_t, lanes>(y, x, grad_out, argmax, grad);
  }
}
