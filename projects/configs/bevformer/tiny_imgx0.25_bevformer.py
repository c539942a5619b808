# UniAD-tiny, stage 0: the image encoder and BEV of its later stages. BEVFormer's own tiny sees images at a half; this one sees
# what stages 1 and 2 will see.
_base_ = ["./base_bevformer.py", "../_base_/variants/tiny_imgx0.25.py"]

bev_h_ = {{_base_._variant_.bev_h}}
bev_w_ = {{_base_._variant_.bev_w}}
bev_size = (bev_h_, bev_w_)
queue_length = 3

model = {{_base_._variant_.model_0}}

train_pipeline = {{_base_._quarter_.train}}
test_pipeline = {{_base_._quarter_.test}}
data = dict(
    train=dict(pipeline=train_pipeline, bev_size=bev_size, queue_length=queue_length),
    val=dict(pipeline=test_pipeline, bev_size=bev_size),
    test=dict(pipeline=test_pipeline, bev_size=bev_size),
)
evaluation = dict(pipeline=test_pipeline)
load_from = "ckpts/resnet50-0676ba61.pth"  # torchvision's, trained on ImageNet
