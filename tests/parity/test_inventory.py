"""Golden directories hold what their README asks for, and nothing else.

`ARRAYS` has the names of every kind of file as its README gives them, made from the cases, sizes
and weights that the file itself has. A directory of either format needs all files of that format,
less those in its `left_out.txt`; where its README.md lists the files that are there, it needs all
that the README lists.
"""

import re
from fnmatch import fnmatch
from itertools import product

import numpy as np
import pytest

ADIOS = [f"{base}_adios{s}" for base in ("simclr", "byol", "simsiam") for s in ("", "_s")]
CHECKPOINTS = ("simclr_adios", "byol_adios", "simsiam_adios")
LOSSES = "{encoder_objective,classifier_loss,encoder_total,mask_objective,mask_minimised}"
BATCH = "{view1,view2,labels}"
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


def names(*patterns):
    """Shell braces: "a/{b,c}" is a/b and a/c."""
    found = set()
    for pattern in patterns:
        parts = [p.split(",") for p in re.split(r"[{}]", pattern)]
        parts = [p if i % 2 else [",".join(p)] for i, p in enumerate(parts)]
        found |= {"".join(choice) for choice in product(*parts)}
    return found


def below(prefixes, members):
    return {p + m for p in prefixes for m in members}


def numbers(file, word):
    """The numbers that follow a word at the start of names: 1, 2 for batch1/.., batch2/.."""
    return sorted({int(h[len(word) :]) for h in file.heads() if re.fullmatch(word + r"\d+", h)})


def losses(file):
    tail = "/{z1,z2,temperature,loss,grad_z1,grad_z2,loss_f32,grad_z1_f32,grad_z2_f32}"
    found = names(*(f"ntxent/{case}{tail}" for case in file["names/ntxent"]))
    tail = "/{p,z,loss,grad_p,loss_not_simplified,grad_p_not_simplified,loss_f32}"
    for kind in ("byol", "simsiam"):
        found |= names(*(f"{kind}/{case}{tail}" for case in file[f"names/{kind}"]))
    return found | names("names/{ntxent,byol,simsiam}")


def penalties(file):
    found = names("names", "scalar/{m,value,grad}_{f64,f32}")
    terms = "{sparsity,entropy,sparsity_f32,entropy_f32,m_loss_a1_0.3_a2_0.7}"
    for case in file["names"]:
        found |= names(f"{case}/{{logits_a,logits_b,area_a,area_b,area_a_f32}}")
        for method in ADIOS:
            views = "{a,b}" if method.startswith("simsiam") else "a"
            logged = f"{case}/{method}/logged_mask_summed_{{min,max}}"
            gradients = f"{case}/{method}/grad_{{sparsity,entropy}}_{views}"
            found |= names(f"{case}/{method}/{terms}", logged, gradients)
    return found


def unet(file):
    weights = [n.removeprefix("weights/keras/") for n in file.names("weights/keras/")]
    found = below(("weights/torch/", "weights/keras/"), weights) | {"x", "masks", "area"}
    return found | ({"features"} if file["x"].shape[1] == 32 else set())


def trained(weights):
    """Those that have a gradient."""
    return [
        w
        for w in weights
        if not w.endswith(BUFFERS) and not w.startswith(("momentum_", "encoder_k"))
    ]


def step(file):
    weights = [n.removeprefix("init/keras/") for n in file.names("init/keras/")]
    steps = numbers(file, "batch")
    assert steps == [1, 2]
    large = [f"mask_encoder.mlp.{i}.weight" for i in (1, 3, 5)]
    found = below(("init/torch/", "init/keras/"), weights)
    found |= below(("grad1/torch/", "grad1/keras/"), trained(weights))
    found |= names("masks0/{view1,view2}", f"batch{{1,2}}/{BATCH}", f"losses{{1,2}}/{LOSSES}")
    found |= below(("after1/keras/", "after2/keras/"), weights)
    found |= below(("after1/torch/", "after2/torch/"), [w for w in weights if w not in large])
    method = file.path.stem.removeprefix("step_")
    if method.endswith("_s"):
        found |= names("chosen{1,2}/{encoder,mask}_phase")
    if method.startswith("byol"):
        found |= names("ema{1,2}/{tau_used,tau_next,updated}", "every/ema{1,2}/{tau_used,tau_next}")
        found |= names(f"every/losses{{1,2}}/{LOSSES}")
        kept = [w for w in weights if not w.startswith("mask_encoder.")]
        prefixes = names("every/after{1,2}/{torch,keras}/")
        found |= below(prefixes, kept)
    return found


def masks(file):
    found = set()
    summary = "{mean,std,quantiles}"
    drawn = (
        "{drawn_area_s,aspect_r,block_rows_a,block_cols_b,block_area_ab,first_block_s,top,left,"
        "sample_range_len}"
    )
    for case in [h for h in file.heads() if h != "meta_json"]:
        found |= names(
            f"{case}/{{n_draws,fraction,coverage,samples_packed}}",
            f"{case}/fraction_stats/{summary}",
        )
        if case.startswith("mae_"):
            found |= {f"{case}/constant_on_16x16_patches"}
        elif case.startswith("beit_"):
            found |= names(f"{case}/{{n_ValueError,n_blocks}}", f"{case}/n_blocks_stats/{summary}")
            found |= names(f"{case}/{drawn}/{{mean,std,quantiles,hist,edges}}")
    return found


def metrics(file):
    found = names("names/{acc,ari}", "multi/{logits,targets,acc,f1_macro,f1_micro,f1_weighted}")
    found |= names("knn/{train,test}_{features,targets}", "knn/{table,table_columns}")
    for case in file["names/acc"]:
        found |= names(f"acc/{case}/{{logits,targets,top_k}}")
        found |= {f"acc/{case}/acc{k}" for k in file[f"acc/{case}/top_k"]}
    covering = "{msc,ssc,map,sap,msc_fg,ssc_fg,map_fg,sap_fg}"
    for case in file["names/ari"]:
        tail = "{pred_masks,gt,pred_seg,ari,ari_per_image,ari_fg,ari_fg_per_image}"
        found |= names(f"ari/{case}/{tail}", f"ari/{case}/{covering}")
    found |= names("segcover/{segA,segB}", f"segcover/{covering}", "iou/{A,B,iou}")
    return found | names("weighted_mean/{values,sizes,result}")


def lr(file):
    found = names("names/{schedule,method_schedule,lars,tau}")
    for case in file["names/schedule"]:
        found |= names(f"schedule/{case}/{{lr,base_lrs}}")
    assert sorted(file["names/method_schedule"]) == sorted(ADIOS)
    tail = "{encoder_groups_lr,mask_groups_lr,encoder_group_names}"
    found |= names(*(f"method_schedule/{method}/{tail}" for method in ADIOS))
    found |= {f"tau/{case}" for case in file["names/tau"]}
    weights = [n.removeprefix("lars/w0/keras/") for n in file.names("lars/w0/keras/")]
    assert {"none_grad.weight", "zero_grad.weight", "cls.weight", "cls.bias"} <= set(weights)
    given = [w for w in weights if not w.startswith("none_grad")]
    found |= below(names("lars/w0/{torch,keras}/"), weights)
    found |= below(names("lars/grad{1,2,3}/{torch,keras}/"), given)
    for case in file["names/lars"]:
        found |= below(names(f"lars/{case}/after{{1,2,3}}/{{torch,keras}}/"), weights)
        found |= below([f"lars/{case}/scaled_grad1/torch/"], given)
    return found


def mixmask(file):
    found = {"upsample/grid_mask", *file.names("upsample/mask_")}
    assert all(re.fullmatch(r"upsample/mask_\d+", n) for n in file.names("upsample/mask_"))
    tail = "{n_draws,lam,lam_values,lam_counts,lam_mean,lam_std,coverage,samples}"
    for case in file.heads("stats/"):
        assert re.fullmatch(r"(block|discrete)_grid\d+_lam[\d.]+", case), case
        found |= names(f"stats/{case}/{tail}")
    tail = (
        "{q,q_mixed,k,queue,T,lam,loss_o,loss_m,loss_m_flip,loss,logits,logits_m,logits_m_flip,"
        "grad_q,grad_q_mixed,queue_after,queue_ptr_after}"
    )
    found |= names(*(f"features/{case}/{tail}" for case in file.heads("features/")))
    tail = (
        "{q,q_mixed,q_mask,k,index_mask,queue,T,lam_unmix,lam_mask,loss_o,loss_m,loss_m_flip,"
        "loss_mask,loss_mask_flip,loss,grad_q,grad_q_mixed,grad_q_mask}"
    )
    found |= names(*(f"both/{case}/{tail}" for case in file.heads("both/")))
    batch = "{im_q,im_k,mask,lam,im_mixed,key_shuffle,loss_o,loss_m,loss_m_flip,loss}"
    for kind in ("block", "discrete"):
        root = f"train_{kind}/"
        weights = [n.removeprefix(f"{root}init/keras/") for n in file.names(f"{root}init/keras/")]
        found |= below(names(f"{root}{{init,after1,after2}}/{{torch,keras}}/"), weights)
        learned = [w for w in trained(weights) if w.startswith("encoder_q.")]
        found |= below(names(f"{root}grad1/{{torch,keras}}/"), learned)
        found |= names(f"{root}batch{{1,2}}/{batch}")
    return found


def resnet18_features(file):
    heads = "projector_in,projector_out,classifier_out,state_dict_keys,state_dict_shapes,masks"
    found = names("x", *(f"{method}/{{{heads}}}" for method in CHECKPOINTS))
    found |= names("{byol,simsiam}_adios/predictor_out", "byol_adios/momentum_projector_out")
    found |= names("simclr_adios/{feats,feats_f32,z,logits}")
    found |= names("simclr_adios/stage/{stem,layer1,layer2,layer3,layer4}")
    return found | names("std_stem/{x,stem_out,feats}", "std_stem/conv1/{torch,keras}")


def lars(file):
    weights = [n.removeprefix("w0/keras/") for n in file.names("w0/keras/")]
    given = [n.removeprefix("grad1/torch/") for n in file.names("grad1/torch/")]
    assert {w for w in weights if not w.startswith("none_grad")} == set(given)
    steps = range(1, len(file["lr"]) + 1)
    found = below(names("w0/{torch,keras}/"), weights) | {"lr", "lr_cls", "names"}
    assert {"qkv.weight", "q.weight", "k.weight", "v.weight", "cls.weight"} <= set(weights)
    for k in steps:
        found |= below(names(f"grad{k}/{{torch,keras}}/"), given)
    for case in file["names"]:
        found |= below([f"{case}/after{k}/torch/" for k in steps], weights)
        found |= below([f"{case}/scaled{k}/torch/" for k in steps], given)
        found |= below([f"{case}/after{steps[-1]}/keras/"], weights)
    return found


def linear_official(file):
    epochs = range(1, file["order"].shape[0] + 1)
    found = names(
        "features", "labels", "order", "{init,mixmask/init}/{torch/weight,keras/weight,bias}"
    )
    each = "{torch/weight,keras/weight,bias,losses,lr}"
    for e in epochs:
        for kind in ("lars", "no_lars", "closure_inside"):
            found |= names(f"{kind}/epoch{e}/{each}", f"{kind}/epoch{e}/{{loss_all,acc1_all}}")
        found |= names(f"mixmask/epoch{e}/{each}", f"mixmask/epoch{e}/{{loss,acc1,acc5}}_avg")
    return found


def finetune_official(file):
    steps = numbers(file, "batch")
    weights = [n.removeprefix("init/keras/") for n in file.names("init/keras/")]
    found = below(names("init/{torch,keras}/"), weights)
    assert steps
    for k in steps:
        found |= names(f"batch{k}/{{x,labels}}", f"{{lars,closure_inside}}/{{loss,lr}}{k}")
        found |= below(names(f"{{lars,closure_inside}}/after{k}/{{torch,keras}}/"), weights)
        found |= below(names(f"{{lars,closure_inside}}/grad{k}/{{torch,keras}}/"), trained(weights))
    return found


def simsiam_terms(file):
    weights = [n.removeprefix("init/keras/") for n in file.names("init/keras/")]
    found = below(names("init/{torch,keras}/"), weights) | {"names"}
    found |= names(f"batch1/{BATCH}", "masks0/{view1,view2}")
    if file.meta["method"].endswith("_s"):
        found |= names("chosen1/{encoder,mask}_phase")
    for case in file["names"]:
        found |= names(f"{case}/losses1/{LOSSES}")
        found |= below([f"{case}/grad1/keras/"], trained(weights))
        found |= below([f"{case}/after1/keras/"], [w for w in weights if not w.startswith("mask_")])
    return found


def recipe_step(file):
    steps = range(1, file.meta["steps"] + 1)
    assert list(steps) == numbers(file, "batch")
    weights = [str(n) for n in file["stats/names"]]
    learned = trained(weights)
    found = names("stats/{names,shapes,init,init_sha256}", "forward1/{features,projected}/view1")
    found |= names("forward1/{features,projected}/view2_masked0")
    roots = [""]
    views = ("view1", "view2") if file.meta["method"].startswith("simsiam") else ("view2",)
    found |= {f"masks0/{view}" for view in views}
    if file.meta["method"].startswith("byol"):
        roots.append("every/")
        found |= {"every/stats/init"}
        slow = [w for w in weights if w.startswith("momentum_")]
        found |= below([f"every/sample/after{k}/" for k in steps], slow)
    for k, root in product(steps, roots):
        found |= names(
            f"{root}stats/{{after,grad,momentum,lars}}{k}", f"{root}lr{k}/{{encoder,mask}}"
        )
        found |= names(f"{root}losses{k}/{LOSSES}")
        if len(roots) == 2:
            found |= names(f"{root}ema{k}/{{tau_used,tau_next,updated}}")
    for k in steps:
        found |= names(f"batch{k}/{BATCH}", f"float32/deviation{k}", f"float32/losses{k}/{LOSSES}")
        found |= below([f"sample/after{k}/"], weights)
        if file.meta["method"].endswith("_s"):
            found |= names(f"chosen{k}/{{encoder,mask}}_phase")
    found |= below(["sample/grad1/"], learned)
    whole = file.meta["float64_full_names"]
    assert {n.split("/")[1] for n in whole} == {"after1", f"after{steps[-1]}"}
    return found | set(whole)


ARRAYS = {
    "losses": losses,
    "penalties": penalties,
    "unet_*": unet,
    "step_*": step,
    "masks": masks,
    "metrics": metrics,
    "lr": lr,
    "mixmask": mixmask,
    "resnet18_features": resnet18_features,
    "lars": lars,
    "linear_official": linear_official,
    "finetune_official": finetune_official,
    "simsiam_terms": simsiam_terms,
    "simsiam_s_terms": simsiam_terms,
    "recipe_step_*": recipe_step,
}
FIXED = "losses penalties masks metrics lr mixmask resnet18_features"
RECIPES = "lars linear_official finetune_official simsiam_terms simsiam_s_terms recipe_step_*"
FORMATS = (
    {
        *(f"{n}.npz" for n in FIXED.split()),
        *(f"step_{method}.npz" for method in ADIOS),
        *(f"torch_checkpoint_{method}.ckpt" for method in CHECKPOINTS),
        *(f"torch_checkpoint_{method}.args.json" for method in CHECKPOINTS),
        "unet_*.npz",
    },
    {*(f"{n}.npz" for n in RECIPES.split()), "vit_tiny_init.json"},
)
EXTRA = "reference_timing.json"


@pytest.mark.files("*")
def test_arrays(golden, name):
    """Every array that the format has is there, and none besides."""
    file = golden(name)
    kinds = [find for pattern, find in ARRAYS.items() if fnmatch(name, pattern)]
    assert kinds, f"{name}.npz belongs to no golden format"
    expected = kinds[0](file) | {"meta_json"}
    if not any("/torch/" in n for n in file.files):  # the copies in tests/golden do without
        expected = {n for n in expected if "/torch/" not in n}
    found = set(file.files)
    assert not expected - found, f"missing from {name}.npz: {sorted(expected - found)[:3]}"
    assert not found - expected, f"unknown in {name}.npz: {sorted(found - expected)[:3]}"


def test_files(golden_files):
    for folder in golden_files.folders:
        there, excused = golden_files.names(folder), golden_files.excused(folder)
        known = [*FORMATS[0], *FORMATS[1], EXTRA]
        unknown = [n for n in there if not any(fnmatch(n, p) for p in known)]
        assert not unknown, f"{folder} has files of no golden format: {sorted(unknown)}"
        formats = [w for w in FORMATS if any(fnmatch(n, p) for n in there for p in w)]
        assert formats, f"{folder} has no golden files"
        for pattern in set().union(*formats):
            assert any(fnmatch(n, pattern) for n in there | excused), f"{folder} lacks {pattern}"
        lacking = listed(folder, there) - there - excused
        assert not lacking, f"{folder} lacks what its README.md lists: {sorted(lacking)}"


def listed(folder, there):
    """The files that a directory's README.md lists; none if it is not this directory's."""
    readme = folder / "README.md"
    text = readme.read_text() if readme.exists() else ""
    files = set(re.findall(r"^[-|] `([\w.]+\.(?:npz|ckpt|json))`", text, re.MULTILINE))
    return files if there <= files else set()


def test_other_cases_pass_and_damage_is_seen(golden, tmp_path):
    """A renamed case and a subset are of the format; less or more than a case is not."""
    file = golden("losses")
    whole = {n: file[n] for n in file.files}
    kept, dropped, *_ = map(str, file["names/ntxent"])

    def altered(change):
        arrays = change(dict(whole))
        np.savez(tmp_path / "losses.npz", **arrays)
        test_arrays(lambda name: type(file)(tmp_path / f"{name}.npz"), "losses")

    def renamed(arrays):
        arrays = {n.replace(f"ntxent/{kept}/", "ntxent/other/"): a for n, a in arrays.items()}
        arrays = {n: a for n, a in arrays.items() if not n.startswith(f"ntxent/{dropped}/")}
        cases = [n for n in map(str, whole["names/ntxent"]) if n not in (kept, dropped)]
        return arrays | {"names/ntxent": np.array([*cases, "other"])}

    altered(renamed)
    with pytest.raises(
        AssertionError, match=re.escape(f"missing from losses.npz: ['ntxent/{kept}")
    ):
        altered(lambda a: {n: v for n, v in a.items() if n != f"ntxent/{kept}/loss"})
    with pytest.raises(AssertionError, match=r"unknown in losses\.npz"):
        altered(lambda a: a | {f"ntxent/{kept}/surprise": np.zeros(1)})
